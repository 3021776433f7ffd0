"""The span of one request, with children for its sequences. Made by `otlp`, like it with the SDK.

The children are made from the times of a sequence's end: nothing is traced while it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from opentelemetry.trace import (
    Link,
    Span,
    StatusCode,
    Tracer,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from jumplora_server.core import Finish, FinishReason
from jumplora_server.tracing.loads import RecentLoads, load_attributes
from jumplora_server.tracing.tracer import OnFinish, RequestAsked, RequestEnd

MAX_SEQUENCES = 16  # of a request that get spans; the rest are only counted
MAX_MODEL_CHARS = 128  # it may be a name that a client made up
PROVIDER = "jumplora"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_Attributes = dict[str, AttributeValue]


class Times:
    """Seconds of a monotonic clock as nanoseconds of Unix time, by one moment on both."""

    __slots__ = ("_offset", "began")

    def __init__(self, seconds: float, unix_ns: int) -> None:
        self.began = seconds
        self._offset = unix_ns - int(seconds * 1e9)

    def ns(self, seconds: float) -> int:
        """The same moment in Unix time."""
        return self._offset + int(seconds * 1e9)


class RequestSpan:
    """See RequestTrace. Nothing but the ids is made where the trace is not sampled."""

    def __init__(
        self,
        tracer: Tracer,
        span: Span,
        times: Times,
        loads: RecentLoads,
        clock: Callable[[], float],
    ) -> None:
        """`span` began with `times`; `loads` are those that the request may have waited for."""
        self._tracer = tracer
        self._span = span
        self._times = times
        self._loads = loads
        self._clock = clock
        self._is_recorded = span.is_recording()
        self._finishes: dict[int, Finish] = {}
        self._awaited = 0  # sequences that get spans

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return format_trace_id(self._span.get_span_context().trace_id)

    @property
    def response(self) -> str:
        """As W3C's draft has it: the parts of a traceparent, with the id of our own span."""
        context = self._span.get_span_context()
        return f"00-{self.trace_id}-{format_span_id(context.span_id)}-{context.trace_flags:02x}"

    def asked(self, asked: RequestAsked) -> None:
        """The request was taken in."""
        if not self._is_recorded:
            return
        sampling = asked.sampling
        self._awaited = min(asked.sequences, MAX_SEQUENCES)
        attributes: _Attributes = {
            "gen_ai.request.stream": asked.is_streamed,
            "jumplora.prompts": asked.prompts,
            "jumplora.sequences": asked.sequences,
        }
        if sampling.mode == "sample":
            drawn = {
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
            }
            attributes |= {f"gen_ai.request.{k}": v for k, v in drawn.items() if v is not None}
        if asked.sequences > asked.prompts:
            attributes["gen_ai.request.choice.count"] = asked.sequences // asked.prompts
        if sampling.beams is not None:
            attributes["jumplora.beams"] = sampling.beams.width
        if sampling.choices is None:
            attributes["gen_ai.request.max_tokens"] = sampling.max_new_tokens
        else:  # these are as long as their texts, whatever the limit
            attributes["jumplora.options"] = len(sampling.choices.trie.ids)
        self._span.set_attributes(attributes)

    def sequence(self, number: int) -> OnFinish | None:
        """What is to hear the end of the sequence of that number; None for the rest of many."""
        if not self._is_recorded or number >= MAX_SEQUENCES:
            return None
        return partial(self._finished, number)

    def _finished(self, number: int, finish: Finish) -> None:
        """Make a span of each phase that the sequence reached, at its true times. The last one says
        how it ended."""
        self._finishes[number] = finish
        timing = finish.timing
        started = timing.arrived + timing.queue
        encoded = started + timing.encode
        times = {"queue": (timing.arrived, started)}
        if timing.encode:
            times["encode"] = (started, encoded)
        if timing.decode:
            times["decode"] = (encoded, encoded + timing.decode)
        *_, last = times
        for name, (began, ended) in times.items():
            span = self._child(name, began, {"jumplora.sequence": number})
            if name == "decode" and timing.first_token is not None:
                first = timing.arrived + timing.first_token
                span.add_event("first token", timestamp=self._times.ns(first))
            if name == last:
                self._say_end(span, finish)
            span.end(self._times.ns(ended))

    def _say_end(self, span: Span, finish: Finish) -> None:
        span.set_attribute("gen_ai.response.finish_reasons", [finish.reason.value])
        span.set_attribute("gen_ai.usage.input_tokens", finish.prompt_tokens)
        span.set_attribute("gen_ai.usage.output_tokens", finish.generated_tokens)
        if finish.reason is FinishReason.ERROR:
            span.set_status(StatusCode.ERROR)

    def _child(
        self, name: str, began: float, attributes: _Attributes, links: tuple[Link, ...] = ()
    ) -> Span:
        return self._tracer.start_span(
            name,
            context=set_span_in_context(self._span),
            start_time=self._times.ns(began),
            attributes=attributes,
            links=links,
        )

    def end(self, end: RequestEnd) -> None:
        """The request has ended."""
        if not self._is_recorded:
            self._span.end()
            return
        is_known = end.method in _METHODS
        method = end.method if is_known else "HTTP"
        self._span.update_name(method if end.route is None else f"{method} {end.route}")
        given: dict[str, AttributeValue | None] = {
            "http.request.method": end.method if is_known else "_OTHER",
            "http.route": end.route,
            "http.response.status_code": end.status,
            "jumplora.request_id": end.request_id,
            "jumplora.key_id": end.key_id,
            "jumplora.code": end.code,
        }
        if end.operation is not None:
            given |= {
                "gen_ai.operation.name": end.operation,
                "gen_ai.provider.name": PROVIDER,
                "gen_ai.request.model": None if end.model is None else end.model[:MAX_MODEL_CHARS],
            }
        if self._finishes or end.prompt_tokens:
            ended = [self._finishes[number] for number in sorted(self._finishes)]
            firsts = [f.timing.first_token for f in ended if f.timing.first_token is not None]
            given |= {
                "gen_ai.response.model": _with_version(end),
                "gen_ai.response.finish_reasons": [finish.reason.value for finish in ended] or None,
                # Those that a client who hung up, or a deadline, left behind.
                "jumplora.unfinished": (self._awaited - len(ended)) or None,
                "gen_ai.response.time_to_first_chunk": min(firsts, default=None),
                "gen_ai.usage.input_tokens": end.prompt_tokens,
                "gen_ai.usage.output_tokens": end.generated_tokens,
            }
        self._span.set_attributes({k: v for k, v in given.items() if v is not None})
        if end.is_fault:
            self._span.set_attribute("error.type", end.code or str(end.status))
            self._span.set_status(StatusCode.ERROR)
        now = self._clock()
        self._show_load(end.version, now)
        self._span.end(self._times.ns(now))

    def _show_load(self, version: str | None, now: float) -> None:
        """The part of the version's load that lay before the first of the sequences got a row."""
        found = None if version is None else self._loads.of(version)
        if found is None:
            return
        loading, context = found
        starts = [f.timing.arrived + f.timing.queue for f in self._finishes.values()]
        began = max(loading.began, self._times.began)
        ended = min([loading.ended, now, *starts])
        if began < ended:
            span = self._child("load", began, load_attributes(loading), (Link(context),))
            span.end(self._times.ns(ended))


def _with_version(end: RequestEnd) -> str | None:
    return f"{end.model}@{end.version}" if end.model and end.version else end.model
