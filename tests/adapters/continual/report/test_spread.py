"""Means, spreads and what a difference is worth, by hand."""

from __future__ import annotations

from math import sqrt

import pytest

from jumplora_adapters.continual.report.spread import (
    Spread,
    is_decided,
    paired,
    spread,
    verdict,
)


def test_spread() -> None:
    value = spread([0.1, 0.2, 0.6])
    assert value is not None
    assert value.mean == pytest.approx(0.3)
    assert value.deviation == pytest.approx(sqrt((0.04 + 0.01 + 0.09) / 2))
    assert value.standard_error == pytest.approx(sqrt(0.07 / 3))


def test_one_value_has_no_spread() -> None:
    value = spread([0.5])
    assert value == Spread(0.5, None, 1)
    assert value is not None
    assert value.standard_error is None


def test_values_that_are_missing_are_not_counted() -> None:
    assert spread([None, 0.5, None]) == Spread(0.5, None, 1)
    assert spread([None]) is None
    assert spread([]) is None


def test_pairs_are_of_one_seed() -> None:
    difference = paired({0: 0.9, 1: 0.7, 2: None, 3: 0.1}, {1: 0.5, 0: 0.5, 2: 0.1, 4: 0.0})
    assert difference is not None
    assert difference.mean == pytest.approx(0.3)
    assert difference.deviation == pytest.approx(sqrt(0.02))
    assert difference.count == 2
    assert paired({0: 0.9}, {1: 0.9}) is None


@pytest.mark.parametrize(
    ("difference", "published", "said"),
    [
        (Spread(0.09, 0.03, 9), 0.05, "agrees"),  # 9 standard errors
        (Spread(-0.09, 0.03, 9), 0.05, "disagrees"),
        (Spread(-0.09, 0.03, 9), -0.05, "agrees"),
        (Spread(0.02, 0.03, 9), 0.05, "within the spread of the seeds"),  # exactly 2
        (Spread(-0.01, 0.03, 9), 0.05, "within the spread of the seeds"),
        (Spread(0.5, None, 1), 0.05, "within the spread of the seeds"),
        (Spread(0.0, 0.0, 3), 0.05, "within the spread of the seeds"),
    ],
)
def test_verdict(difference: Spread, published: float, said: str) -> None:
    assert verdict(difference, published) == said
    assert is_decided(difference) == (said != "within the spread of the seeds")
