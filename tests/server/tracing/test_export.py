"""Spans on their way to a collector that is slow, broken, or not there."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from collector import collecting
from jumplora_server.tracing.export import BoundedExport, otlp_export
from small_http import Said


class HeldExporter(SpanExporter):
    """Takes spans when it is let go."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.may_end = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Wait."""
        self.began.set()
        assert self.may_end.wait(20)
        return SpanExportResult.SUCCESS


class BrokenExporter(SpanExporter):
    """Raises."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """No."""
        raise OSError("broken")


def make_spans(export: BoundedExport, count: int) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export)
    tracer = provider.get_tracer("test")
    for _ in range(count):
        tracer.start_span("span").end()


@pytest.fixture
def counted() -> Counter[str]:
    return Counter()


@pytest.fixture
def note(counted: Counter[str]) -> Callable[[str, int], None]:
    def note(end: str, count: int) -> None:
        counted[end] += count

    return note


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")


def test_what_is_too_much_is_dropped_and_counted(
    counted: Counter[str], note: Callable[[str, int], None]
) -> None:
    exporter = HeldExporter()
    export = BoundedExport(exporter, 4, note)
    make_spans(export, 2)
    assert exporter.began.wait(20)
    make_spans(export, 7)  # while two are on their way
    assert counted == {"dropped": 3}
    exporter.may_end.set()
    export.close(20)
    assert counted == {"dropped": 3, "exported": 6}


def test_the_end_waits_for_no_collector_that_hangs(
    counted: Counter[str], note: Callable[[str, int], None]
) -> None:
    exporter = HeldExporter()
    export = BoundedExport(exporter, 4, note)
    make_spans(export, 2)
    assert exporter.began.wait(20)
    make_spans(export, 3)
    began = time.monotonic()
    export.close(0.05)
    assert time.monotonic() - began < 10  # the SDK's own patience is 30 s
    assert counted == {"dropped": 3}
    make_spans(export, 1)  # of a request that ends after that
    assert counted["dropped"] == 4
    exporter.may_end.set()


def test_an_exporter_that_raises_is_a_failure(
    counted: Counter[str], note: Callable[[str, int], None], caplog: pytest.LogCaptureFixture
) -> None:
    export = BoundedExport(BrokenExporter(), 4, note)
    make_spans(export, 3)
    export.close(20)
    assert counted == {"failed": 3}
    assert "broken" in caplog.text


def test_a_collector_that_refuses_is_a_failure(
    counted: Counter[str],
    note: Callable[[str, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with collecting() as collector:
        collector.answer = lambda: Said(400)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        export = otlp_export(note)
        make_spans(export, 3)
        export.close(20)
    assert counted == {"failed": 3}
    assert len(collector.spans) == 3


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://", "http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf alone"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many", "a number of spans"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "1", "max_export_batch_size"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said):
        otlp_export(lambda end, count: None)
