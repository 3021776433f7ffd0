"""Trends against a plain recomputation from all requests, and what they keep."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from jumplora_server.core import Timing
from jumplora_server.metrics.metrics import Metrics
from jumplora_server.metrics.tasks import Outcome
from jumplora_server.metrics.trends import CELL_SECONDS, CELLS, Sum, Trend, Trends

WIDTH = 2 ** (1 / 6) * (1 + 1e-9)  # how far a percentile may be off, either way
NOTHING = Trend((), (), None, 0, 0)
SPAN = CELLS * CELL_SECONDS

TASKS = st.sampled_from(["a", "b", "c"])
SECONDS = st.none() | st.floats(0.001, 600.0)
REQUESTS = st.tuples(st.floats(0.0, 45.0), TASKS, SECONDS, st.booleans())


class Clock:
    """Stands still until it is moved."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class Plain:
    """Keeps every request and counts when it is asked."""

    clock: Clock
    requests: list[tuple[float, str, float | None, bool]] = field(default_factory=list)

    def cells(self, task: str) -> list[list[tuple[float | None, bool]]]:
        last = int(self.clock.now // CELL_SECONDS)
        return [
            [
                (seconds, is_failed)
                for at, of, seconds, is_failed in self.requests
                if of == task and int(at // CELL_SECONDS) == number
            ]
            for number in range(last - CELLS + 1, last + 1)
        ]


def p95(durations: Sequence[float | None]) -> float | None:
    """The nearest-rank percentile."""
    known = sorted(seconds for seconds in durations if seconds is not None)
    return known[math.ceil(0.95 * len(known)) - 1] if known else None


def is_close(found: float | None, exact: float | None) -> bool:
    if found is None or exact is None:
        return found is exact
    return exact / WIDTH <= found <= exact * WIDTH


@given(start=st.floats(0.0, 1e6), requests=st.lists(REQUESTS, max_size=60), idle=st.floats(0, 400))
def test_they_are_what_counting_all_requests_gives(
    start: float, requests: list[tuple[float, str, float | None, bool]], idle: float
) -> None:
    clock = Clock(start)
    trends, plain = Trends(clock), Plain(clock)
    for wait, task, seconds, is_failed in requests:
        clock.now += wait
        trends.add(task, seconds, is_failed=is_failed)
        plain.requests.append((clock.now, task, seconds, is_failed))
        trends.look(task)  # what it keeps for the next look must stay right
    clock.now += idle
    gone = clock.now % CELL_SECONDS
    for task in ("a", "b", "c"):
        cells = plain.cells(task)
        every = [request for cell in cells for request in cell]
        assert trends.sum_of(task) == Sum(len(every), sum(failed for _, failed in every))
        assert is_close(trends.p95(task), p95([seconds for seconds, _ in every]))
        trend = trends.look(task)
        assert Sum(trend.requests, trend.failed) == trends.sum_of(task)
        assert trend.p95 == trends.p95(task)
        if not trend.per_second:
            assert not every
            continue
        lengths = [CELL_SECONDS] * (CELLS - 1) + [max(CELL_SECONDS / 2, gone)]
        rates = [len(cell) / length for cell, length in zip(cells, lengths, strict=True)]
        assert trend.per_second == pytest.approx(rates)
        exact = [p95([seconds for seconds, _ in cell]) for cell in cells]
        assert all(map(is_close, trend.p95_each, exact)), (trend.p95_each, exact)


@given(st.lists(st.floats(0.001, 800.0), min_size=1, max_size=300))
def test_a_percentile_is_off_by_half_a_bucket_at_most(durations: list[float]) -> None:
    trends = Trends(Clock())
    for seconds in durations:
        trends.add("a", seconds, is_failed=False)
    assert is_close(trends.p95("a"), p95(durations))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, 0.00089), (0.0004, 0.00089), (5000.0, 741.5), (math.nextafter(0.001, 1), 0.00112)],
)
def test_what_lies_beyond_the_buckets_counts_in_the_last_ones(seconds: float, shown: float) -> None:
    trends = Trends(Clock())
    trends.add("a", seconds, is_failed=False)
    assert trends.p95("a") == pytest.approx(shown, rel=0.01)


def test_a_quiet_task_is_dropped_when_another_one_is_asked() -> None:
    clock = Clock()
    trends = Trends(clock)
    trends.add("old", 0.1, is_failed=True)
    clock.now = SPAN - 0.001
    trends.add("new", 0.1, is_failed=False)
    assert trends.sum_of("old") == Sum(1, 1)
    assert trends.tasks == {"old", "new"}
    clock.now = SPAN
    assert trends.look("old") == NOTHING
    assert (trends.sum_of("old"), trends.p95("old")) == (Sum(0, 0), None)
    trends.add("new", 0.1, is_failed=False)
    assert trends.tasks == {"new"}


def test_of_too_many_tasks_the_last_ones_are_kept() -> None:
    clock = Clock()
    trends = Trends(clock, most_tasks=2)
    for second, task in enumerate("aba" + "c"):
        clock.now = second * CELL_SECONDS
        trends.add(task, 0.1, is_failed=False)
    assert trends.tasks == {"a", "c"}
    assert trends.sum_of("a") == Sum(2, 0)


def test_threads_lose_no_request() -> None:
    trends = Trends(Clock())

    def add() -> None:
        for _ in range(2000):
            trends.add("a", 0.1, is_failed=True)
            trends.look("a")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert trends.sum_of("a") == Sum(8000, 8000)


TIMING = Timing(queue=0.1, encode=0.1, decode=0.3, total=0.5, first_token=0.2)


class TestOfMetrics:
    @pytest.mark.parametrize(
        ("outcome", "failed", "is_timed"),
        [
            ("ok", 0, True),
            ("error", 1, True),
            ("timeout", 1, True),
            ("shed", 1, False),
            ("client_disconnect", 0, False),
            ("client_invalid", 0, False),
            ("client_deadline", 0, False),
        ],
    )
    def test_what_counts(self, outcome: Outcome, failed: int, is_timed: bool) -> None:
        metrics = Metrics(CollectorRegistry())
        metrics.register("a")
        metrics.request_finished("a", outcome, TIMING)
        assert metrics.trends.sum_of("a") == Sum(1, failed)
        assert (metrics.trends.p95("a") is not None) == is_timed

    def test_only_registered_tasks_have_any_whatever_their_label(self) -> None:
        metrics = Metrics(CollectorRegistry(), max_task_labels=1)
        for task in ("labelled", "other"):
            metrics.register(task)
        for named in ("labelled", "other", "never heard of", "", None):
            metrics.request_finished(named, "ok", TIMING)
        assert metrics.trends.tasks == {"labelled", "other"}
        metrics.task_removed("labelled")
        metrics.request_finished("labelled", "ok", TIMING)
        assert metrics.trends.tasks == {"other"}
        assert metrics.trends.look("labelled") == NOTHING
        assert metrics.trends.look("other").requests == 1
