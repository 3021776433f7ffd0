"""Histograms between two pages of /metrics."""

from __future__ import annotations

from jumplora_bench.scrape import Window, value, window

COUNT = 'step_seconds_count{phase="decode"}'
BEFORE = """\
# TYPE step_seconds histogram
step_seconds_bucket{phase="decode",le="+Inf"} 2
step_seconds_sum{phase="decode"} 1.0
step_seconds_count{phase="decode"} 2
step_seconds_sum{phase="encode"} 5.0
step_seconds_count{phase="encode"} 1
"""
AFTER = BEFORE.replace("} 1.0", "} 4.0").replace(f"{COUNT} 2", f"{COUNT} 8")


def test_a_window_is_the_difference_of_sums_and_counts() -> None:
    found = window(BEFORE, AFTER, "step_seconds", {"phase": "decode"})
    assert found == Window(sum=3.0, count=6.0)
    assert found.mean == 0.5


def test_without_observations_the_mean_is_zero() -> None:
    assert window(BEFORE, AFTER, "step_seconds", {"phase": "encode"}).mean == 0.0


def test_values_are_summed_over_the_labels_that_were_not_named() -> None:
    assert value(BEFORE, "step_seconds_sum") == 6.0
    assert value(BEFORE, "step_seconds_sum", {"phase": "encode"}) == 5.0
    assert value(BEFORE, "unheard_of") == 0.0
