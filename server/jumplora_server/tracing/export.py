"""The way of ended spans to a collector: a bounded queue, a thread that sends, and what is counted.

Needs the extra `traces`. Where to and how is OpenTelemetry's own environment (OTEL_*).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from jumplora_server.tracing.tracer import SpanEnd

DEFAULT_QUEUE = 2048  # OpenTelemetry's own default
OnSpans = Callable[[SpanEnd, int], None]
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"


class BoundedExport(SpanProcessor):
    """Queues spans for a thread that exports them, and drops the newest where too many wait.

    The SDK's queue drops the oldest and only logs it; this one is counted. A collector that hangs
    holds that thread and no other.
    """

    def __init__(self, exporter: SpanExporter, queue: int, on_spans: OnSpans) -> None:
        """`on_spans` is called on any thread. Raises ValueError for settings that do not go
        together."""
        self._queue = queue
        self._on_spans = on_spans
        self._lock = threading.Lock()
        self._waiting = 0
        self._is_closed = False
        self._batches = BatchSpanProcessor(_Counted(exporter, self._left), max_queue_size=queue)

    def on_end(self, span: ReadableSpan) -> None:
        """Take it, if it is sampled and has room."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        with self._lock:
            is_full = self._is_closed or self._waiting >= self._queue
            self._waiting += not is_full
        if is_full:
            self._on_spans("dropped", 1)
        else:
            self._batches.on_end(span)

    def close(self, seconds: float) -> None:
        """Send what waits, for at most so long. The SDK would wait for half a minute."""
        closing = threading.Thread(target=self._batches.shutdown, name="traces-end", daemon=True)
        closing.start()
        closing.join(seconds)
        with self._lock:
            self._is_closed = True
            left = self._waiting
        if left:
            self._on_spans("dropped", left)

    def _left(self, count: int, end: SpanEnd | None) -> None:
        """Spans left the queue (`end` is None), or have ended so."""
        if end is not None:
            self._on_spans(end, count)
            return
        with self._lock:
            self._waiting -= count


class _Counted(SpanExporter):
    def __init__(self, exporter: SpanExporter, left: Callable[[int, SpanEnd | None], None]) -> None:
        self._exporter = exporter
        self._left = left

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._left(len(spans), None)
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            is_sent = result is SpanExportResult.SUCCESS
            self._left(len(spans), "exported" if is_sent else "failed")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def otlp_export(on_spans: OnSpans) -> BoundedExport:
    """To the collector of the environment. Raises ValueError with a text for the operator."""
    _check_environment()
    queue = _queue_size(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", ""))
    return BoundedExport(OTLPSpanExporter(), queue, on_spans)


def _check_environment() -> None:
    """What the SDK would only log, and at the first export."""
    for name in _PROTOCOLS:
        given = os.environ.get(name, "").strip()
        if given not in ("", _PROTOCOL):
            raise ValueError(
                f"{name} is {given[:80]!r}, but traces are sent as {_PROTOCOL} alone: leave it "
                "out, and give a collector's port for OTLP over HTTP (4318)"
            )
    for name in _ENDPOINTS:
        given = os.environ.get(name, "").strip()
        url = urlsplit(given)
        if given and (url.scheme not in ("http", "https") or not url.hostname):
            raise ValueError(
                f"{name} is {given[:80]!r}: give a URL with http:// or https://, for example "
                "http://collector:4318"
            )


def _queue_size(given: str) -> int:
    if not given.strip():
        return DEFAULT_QUEUE
    if not given.strip().isdecimal():
        raise ValueError(f"OTEL_BSP_MAX_QUEUE_SIZE is {given[:80]!r}: give a number of spans")
    return int(given)
