"""When a staged version is worse: by how much, and by more than chance."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from jumplora_server.metrics.trends import BUCKETS, bucket_of
from jumplora_server.metrics.versions import Counts
from jumplora_server.staged.judging import CHANCE, Floors, chance_of, judged

FLOORS = Floors()


def counts(requests: int, failed: int = 0, seconds: float = 0.1, slow: int = 0) -> Counts:
    """Of the requests that did not fail, `slow` took five times as long."""
    durations = [0] * BUCKETS
    durations[bucket_of(seconds)] += requests - failed - slow
    durations[bucket_of(5 * seconds)] += slow
    return Counts(requests, failed, tuple(durations))


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300), st.integers(0, 300))
def test_chance_is_fishers_exact_test(bad: int, good: int, others: int, good_ones: int) -> None:
    table = [[bad, good], [others, good_ones]]
    expected = fisher_exact(table, alternative="greater").pvalue
    found = chance_of(bad, bad + good, others, others + good_ones)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("staged", "current", "cause"),
    [
        pytest.param(counts(50), counts(450), None, id="as good"),
        pytest.param(counts(50, failed=1), counts(450), None, id="one failure is chance"),
        pytest.param(counts(50, failed=10), counts(450), "errors", id="a fifth fails"),
        pytest.param(counts(50, failed=50), counts(450), "errors", id="all fail"),
        pytest.param(counts(50, failed=20), counts(450, failed=180), None, id="both fail alike"),
        pytest.param(counts(9000, failed=150), counts(9000), None, id="sure, but within the floor"),
        pytest.param(counts(9000, failed=600), counts(9000), "errors", id="beyond the floor"),
        pytest.param(counts(50, seconds=1), counts(450), "latency", id="ten times as slow"),
        pytest.param(counts(50, slow=15), counts(450), "latency", id="a third is slow"),
        pytest.param(counts(50, slow=4), counts(450, slow=9), None, id="chance"),
        pytest.param(counts(50, seconds=0.012), counts(450, seconds=0.006), None, id="6 ms more"),
        pytest.param(counts(50, slow=15), counts(450, slow=150), None, id="both are slow"),
        pytest.param(counts(50, failed=50), counts(0), "errors", id="all fail, and of no others"),
        pytest.param(counts(50, failed=3), counts(0), None, id="chance, and of no others"),
        pytest.param(counts(50, seconds=9), counts(0), None, id="slower than nothing"),
    ],
)
def test_what_is_worse(staged: Counts, current: Counts, cause: str | None) -> None:
    fault = judged(staged, current, FLOORS)
    assert (None if fault is None else fault.cause) == cause


def test_two_versions_that_are_alike_are_hardly_ever_told_apart() -> None:
    """Without any floors, chance alone decides."""
    chosen = random.Random(20)
    strict = Floors(error_points=0.0, latency_ratio=1.0, latency_seconds=0.0)

    def drawn(requests: int) -> Counts:
        durations = [0] * BUCKETS
        failed = sum(chosen.random() < 0.1 for _ in range(requests))
        for _ in range(requests - failed):
            durations[bucket_of(chosen.lognormvariate(-2, 0.8))] += 1
        return Counts(requests, failed, tuple(durations))

    looks = 2000
    faults = sum(judged(drawn(50), drawn(200), strict) is not None for _ in range(looks))
    assert faults <= max(2, 10 * looks * 2 * CHANCE)
