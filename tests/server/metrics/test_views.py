"""What of the metrics page a caller of some tasks sees, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Metric

from jumplora_server.access.caller import API_SCOPES, Caller, TaskPatterns
from jumplora_server.metrics import page as pages
from jumplora_server.metrics.metrics import Metrics
from jumplora_server.metrics.overlap import OverlapSnapshot
from jumplora_server.metrics.page import Page
from jumplora_server.metrics.table import TABLE
from jumplora_server.metrics.views import LISTS, OF_A_KEY, OF_A_TASK, OF_NO_TASK, CutPage

MINE = Caller("key-1", API_SCOPES, TaskPatterns.of({"mine", "mine-*"}))
OTHERS = Caller("key-2", API_SCOPES, TaskPatterns.of({"theirs"}))


class Clock:
    """Time that passes when a test says so, and at each look if it is set to."""

    def __init__(self) -> None:
        self.now, self.each = 0.0, 0.0

    def __call__(self) -> float:
        self.now += self.each
        return self.now


def filled(**options: float) -> Metrics:
    metrics = Metrics(CollectorRegistry(), **options)  # type: ignore[arg-type]
    for task in ("mine", "mine-too", "theirs"):
        metrics.adapter_state(
            task, "0" * 64, "READY", bytes_by_tier={"host": 10}, nonzeros=1, density=0.1,
            degraded=False,
        )  # fmt: skip
        metrics.request_finished(task, "ok", None, 3, 2)
        metrics.adapter_load_failed(task, "nonfinite")
    pairs = (("mine", "mine-too"), ("mine", "theirs"), ("mine-too", "theirs"))
    digests = ("0" * 64, "0" * 64)
    metrics.adapter_overlaps(OverlapSnapshot(pair, digests, 0.2, 0.1) for pair in pairs)
    metrics.lora_requests(["theirs", "mine"], ["theirs"], 4)
    metrics.request_finished("typed", "client_unknown_task", None)
    metrics.request_finished(None, "ok", None)
    return metrics


def lines(metrics: Metrics, caller: Caller) -> list[str]:
    return metrics.render(caller)[0].decode().splitlines()


def test_a_view_is_the_page_without_the_lines_of_others() -> None:
    metrics = filled(page_seconds=60.0)
    view = lines(metrics, MINE)
    whole = metrics.render()[0].decode().splitlines()
    rewritten = 'waiting_lora_adapters=""'
    kept = [line for line in whole if "theirs" not in line]
    assert [line for line in view if rewritten not in line] == kept
    assert [line for line in whole if line not in view and "theirs" not in line] == []
    (lists,) = (line for line in view if rewritten in line)
    assert 'running_lora_adapters="mine",waiting_lora_adapters=""' in lists
    pairs = [line for line in view if line.startswith("jumplora_adapter_overlap_jaccard{")]
    assert pairs == [
        'jumplora_adapter_overlap_jaccard{other_task_id="mine-too",task_id="mine"} 0.2'
    ]


def test_what_names_no_task_stays() -> None:
    view = "\n".join(lines(filled(), OTHERS))
    for line in (
        'jumplora_requests_total{outcome="client_unknown_task",task_id="_unknown"} 1.0',
        'jumplora_requests_total{outcome="ok",task_id="_base"} 1.0',
        'jumplora_requests_total{outcome="ok",task_id="theirs"} 1.0',
        "jumplora_cache_rows_in_use 0.0",
        "python_info{",
    ):
        assert line in view
    assert "mine" not in view


def test_a_key_sees_its_own_series_of_keys() -> None:
    registry = CollectorRegistry()
    refused = Counter("rejections_total", "by key", ("key", "reason"), registry=registry)
    for key in ("key-1", "key-2"):
        refused.labels(key, "tokens").inc()
    view = Page(registry, Clock(), 0.0).render(MINE)[0].decode()
    assert 'key="key-1"' in view
    assert "key-2" not in view


def test_a_label_that_is_not_known_is_in_no_view() -> None:
    registry = CollectorRegistry()
    Gauge("odd", "names a task in its own way", ("tenant",), registry=registry).labels("x").set(1)
    cut = CutPage(registry.collect())
    assert b'odd{tenant="x"} 1.0' in cut.text
    assert b"tenant" not in cut.seen_by(MINE)


def test_every_label_of_the_table_is_known() -> None:
    """A new label: does it name a task? Say so in views.py."""
    known = OF_NO_TASK | LISTS | {*OF_A_TASK, *OF_A_KEY}
    assert {label for each in TABLE for label in each.labels} <= known


def test_views_are_made_once_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    class Counted(CutPage):
        def __init__(self, families: Iterable[Metric]) -> None:
            made.append("page")
            super().__init__(families)

        def seen_by(self, caller: Caller) -> bytes:
            made.append(caller)
            return super().seen_by(caller)

    monkeypatch.setattr(pages, "CutPage", Counted)
    registry, clock = CollectorRegistry(), Clock()
    Gauge("one", "", registry=registry)
    page = Page(registry, clock, 5.0)
    page.render()
    assert made == [], "no page is cut before a caller of some tasks asks"
    for _ in range(3):
        page.render(MINE)
        page.render(OTHERS)
        page.render()
    assert made == ["page", MINE, OTHERS]
    clock.now += 5.0
    page.render(MINE)
    assert made == ["page", MINE, OTHERS, "page", MINE]


def test_views_count_as_the_pages_own_time() -> None:
    """Else each key would cost a tenth of the time more. No key can keep a page for ever."""
    registry, clock = CollectorRegistry(), Clock()
    value = Gauge("one", "", registry=registry)
    page = Page(registry, clock, 1.0)
    page.render(MINE)
    clock.now += 100.0
    clock.each = 1.0  # each look takes a second: the page takes one, and each view another
    began = clock.now
    for key in range(3):
        page.render(Caller(f"key-{key}", API_SCOPES, MINE.tasks))
    value.set(7)
    clock.each = 0.0
    clock.now = began + 35
    assert b"one 0.0" in page.render(MINE)[0]
    for _ in range(100):
        page.render(MINE)
    clock.now = began + 60
    assert b"one 7.0" in page.render(MINE)[0]


def test_the_views_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MOST_VIEW_BYTES", 200)
    registry, clock = CollectorRegistry(), Clock()
    Gauge("one", "x" * 60, registry=registry)
    page = Page(registry, clock, 60.0)
    for key in range(50):
        page.render(Caller(f"key-{key}", API_SCOPES, MINE.tasks))
    assert sum(map(len, page._views.values())) <= 200
