"""Spans by OpenTelemetry: one for each request with children for its sequences, one for each load.

Needs the extra `traces`. Names are of its semantic conventions for HTTP and for generative AI; what
these have no name for starts with `jumplora.`. No text of a prompt or an answer, no path and no
address of a client gets into a span.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from jumplora_server.tracing.export import BoundedExport
from jumplora_server.tracing.loads import RecentLoads, load_attributes
from jumplora_server.tracing.request_span import RequestSpan, Times
from jumplora_server.tracing.tracer import Loading, TraceHeaders

SERVICE = "jumplora"  # where OTEL_SERVICE_NAME says nothing


class OtlpTracer:
    """Makes the spans of one server, with a provider of its own: there is no global one."""

    is_on = True

    def __init__(
        self,
        export: BoundedExport,
        *,
        version: str,
        clock: Callable[[], float],
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """The sampler, the limits and the resource are those of the environment (OTEL_*)."""
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_"):
            resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
        resource = resource.merge(Resource({SERVICE_VERSION: version}))
        self._export = export
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(export)
        self._tracer = self._provider.get_tracer("jumplora_server", version)
        self._propagator = TraceContextTextMapPropagator()
        self._loads = RecentLoads()
        self._clock = clock
        self._wall_ns = wall_ns

    def request(self, headers: TraceHeaders) -> RequestSpan:
        """A request has begun."""
        given = {"traceparent": headers.traceparent, "tracestate": headers.tracestate}
        carrier = {name: value for name, value in given.items() if value is not None}
        times = Times(self._clock(), self._wall_ns())
        span = self._tracer.start_span(
            "HTTP",  # until the route is known
            context=self._propagator.extract(carrier, Context()),
            kind=SpanKind.SERVER,
            start_time=times.ns(times.began),
        )
        return RequestSpan(self._tracer, span, times, self._loads, self._clock)

    def loaded(self, loading: Loading) -> None:
        """A load has ended; requests that waited for it show it, too."""
        times = Times(self._clock(), self._wall_ns())
        stages = {f"jumplora.load.{name}": took for name, took in loading.stages.items()}
        span = self._tracer.start_span(
            "load adapter",
            context=Context(),
            attributes={**load_attributes(loading), **stages},
            start_time=times.ns(loading.began),
        )
        if loading.code is not None:
            span.set_attribute("error.type", loading.code)
            span.set_status(StatusCode.ERROR)
        span.end(times.ns(loading.ended))
        self._loads.note(loading, span.get_span_context())

    def close(self, seconds: float) -> None:
        """Send what is left, for at most so long."""
        self._export.close(seconds)
