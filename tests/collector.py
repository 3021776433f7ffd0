"""A collector of OpenTelemetry over HTTP: what it was sent, parsed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from small_http import Asked, Said, http_server

ERROR = 2  # the code of a span's status
SERVER = 2  # the kind of a span


@dataclass(frozen=True, slots=True)
class Received:
    """One span. Ids are hex digits, times nanoseconds of Unix time."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    start: int
    end: int
    status: int
    attributes: dict[str, Any]
    events: dict[str, int]
    links: tuple[str, ...]
    resource: dict[str, Any]

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end - self.start) / 1e9


@dataclass
class Collector:
    """`answer` decides what a batch of spans is answered with."""

    spans: list[Received] = field(default_factory=list)
    requests: list[Asked] = field(default_factory=list)
    url: str = ""
    answer: Callable[[], Said] = lambda: Said(
        200,
        ExportTraceServiceResponse().SerializeToString(),
        {"content-type": "application/x-protobuf"},
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, asked: Asked) -> Said:
        """One request, as exporters send it."""
        assert (asked.method, asked.path) == ("POST", "/v1/traces")
        with self._lock:
            self.requests.append(asked)
            self.spans.extend(_spans(asked.body))
        return self.answer()

    def of(self, name: str) -> list[Received]:
        """The spans of a name, in the order of their beginnings."""
        return sorted((s for s in self.spans if s.name == name), key=lambda span: span.start)

    def one(self, name: str) -> Received:
        """The only span of a name."""
        (span,) = self.of(name)
        return span

    def children(self, parent: Received) -> list[Received]:
        """In the order of their beginnings."""
        found = [s for s in self.spans if s.parent_id == parent.span_id]
        return sorted(found, key=lambda span: (span.start, span.end))


def _spans(body: bytes) -> Iterator[Received]:
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = {each.key: _value(each.value) for each in group.resource.attributes}
        for span in (span for scope in group.scope_spans for span in scope.spans):
            yield Received(
                name=span.name,
                kind=span.kind,
                trace_id=span.trace_id.hex(),
                span_id=span.span_id.hex(),
                parent_id=span.parent_span_id.hex(),
                state=span.trace_state,
                start=span.start_time_unix_nano,
                end=span.end_time_unix_nano,
                status=span.status.code,
                attributes={each.key: _value(each.value) for each in span.attributes},
                events={event.name: event.time_unix_nano for event in span.events},
                links=tuple(link.span_id.hex() for link in span.links),
                resource=resource,
            )


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens."""
    collector = Collector()
    with http_server(collector.take) as collector.url:
        yield collector
