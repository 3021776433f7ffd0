"""Percentiles, goodput, throughput and the worst task, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from jumplora_bench.answers import (
    Answer,
    Percentiles,
    Slo,
    percentile,
    percentiles,
    summarize,
    tokens_per_second,
    worst,
)


def answer(
    task: str = "a", due: float = 0.0, first: float = 1.0, last: float = 2.0, count: int = 3,
    error: str | None = None,
) -> Answer:  # fmt: skip
    """An answer whose tokens come in equal steps from `first` to `last`."""
    gap = (last - first) / max(1, count - 1)
    times = tuple(first + gap * i for i in range(count))
    return Answer(task, due, due, times if error is None else (), last, error)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        pytest.param([5.0], 0.99, 5.0, id="one value is every percentile"),
        pytest.param([3.0, 1.0, 2.0], 0.5, 2.0, id="unsorted, odd"),
        pytest.param([1.0, 2.0, 3.0, 4.0], 0.5, 2.0, id="nearest rank takes the lower middle"),
        pytest.param([float(i) for i in range(1, 101)], 0.99, 99.0, id="p99 of a hundred"),
        pytest.param([float(i) for i in range(1, 101)], 0.9, 90.0, id="p90 of a hundred"),
        pytest.param([1.0, 2.0], 1.0, 2.0, id="all"),
        pytest.param([1.0, 2.0], 0.0, 1.0, id="none is the least"),
    ],
)
def test_percentile(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_three_percentiles() -> None:
    assert percentiles([float(i) for i in range(1, 11)]) == Percentiles(5.0, 9.0, 10.0)


def test_times_run_from_when_the_request_was_due() -> None:
    late = Answer("a", due=1.0, sent=1.5, token_times=(2.0, 2.2, 2.4), ended=2.5)
    assert (late.ttft, late.tpot, late.total) == pytest.approx((1.0, 0.2, 1.5))


def test_a_single_token_has_no_time_per_output_token() -> None:
    assert answer(count=1).tpot == 0.0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(answer(first=1.0, last=1.4), True, id="both kept, at the bound"),
        pytest.param(answer(first=1.1, last=1.2), False, id="first token late"),
        pytest.param(answer(first=0.5, last=1.5), False, id="later tokens slow"),
        pytest.param(answer(error="429 queue_full"), False, id="failed"),
    ],
)
def test_slo(given: Answer, expected: bool) -> None:
    assert Slo(ttft=1.0, tpot=0.2).is_kept(given) is expected


def test_summary_of_a_run() -> None:
    answers = [
        answer("a", first=0.5, last=0.7),
        answer("a", first=0.5, last=0.9),
        answer("b", first=3.0, last=3.2),
        answer("b", error="503 draining"),
    ]
    found = summarize(answers, Slo(ttft=1.0, tpot=0.25), seconds=10.0)
    assert (found.sent, found.failed) == (4, 1)
    assert (found.good_share, found.good_rate) == pytest.approx((0.5, 0.2))
    assert found.worst_task == "b"
    assert found.worst_p90 == pytest.approx(3.2)
    assert found.ttft == Percentiles(0.5, 3.0, 3.0)
    assert found.lateness == 0.0


def test_a_run_in_which_all_failed() -> None:
    found = summarize([answer(error="500")], Slo(1.0, 1.0), seconds=1.0)
    assert (found.failed, found.good_share, found.ttft, found.worst_task) == (1, 0.0, None, "")


def test_the_worst_task_is_that_of_the_highest_p90() -> None:
    steady = [answer("steady", last=2.0) for _ in range(10)]
    spiky = [answer("spiky", last=1.0) for _ in range(8)] + [answer("spiky", last=9.0)] * 2
    assert worst([*steady, *spiky]) == ("spiky", 9.0)
    assert worst([]) == ("", 0.0)


def test_throughput_counts_tokens_of_the_window_alone() -> None:
    answers = [answer(first=0.0, last=4.0, count=5), answer(first=1.0, last=3.0, count=3)]
    assert tokens_per_second(answers, 1.0, 3.0) == pytest.approx(4 / 2)  # 1, 2 and 1, 2
