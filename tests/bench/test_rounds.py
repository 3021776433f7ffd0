"""Rounds in turn, ratios, agreement, bars."""

from __future__ import annotations

import pytest

from jumplora_bench.bars import Bar, compare, verdict
from jumplora_bench.cases.case import Lap
from jumplora_bench.rounds import Spread, ratios, run_rounds, same_share, spread


class Ticking:
    """A case whose laps take 1, 2, 3, ... seconds, and that writes into a common log."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self._log = log
        self._laps = 0

    def run(self) -> Lap:
        """The next lap."""
        self._log.append(self.name)
        self._laps += 1
        return Lap(float(self._laps), ((self._laps,),))


def test_cases_take_turns_and_the_warm_up_is_not_kept() -> None:
    log: list[str] = []
    laps = run_rounds([Ticking("a", log), Ticking("b", log)], rounds=2)
    assert log == ["a", "b"] * 3
    assert [lap.seconds for lap in laps["a"]] == [2.0, 3.0]


def test_spread_and_ratios() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert ratios([2.0, 6.0, 4.0], [1.0, 2.0, 4.0]) == Spread(2.0, 1.0, 3.0)


def test_agreement_counts_tokens_and_whole_rows() -> None:
    assert same_share(((1, 2), (3, 4)), ((1, 2), (3, 5))) == (0.75, 0.5)


@pytest.mark.parametrize(
    ("bar", "value", "told", "expected"),
    [
        pytest.param(Bar("m", "a", "b"), 9.0, "", "", id="only printed"),
        pytest.param(Bar("m", "a", "b", "at least", 1.6), 1.6, ">= 1.60", "met", id="reached"),
        pytest.param(Bar("m", "a", "b", "at least", 1.6), 1.59, ">= 1.60", "missed", id="short"),
        pytest.param(Bar("m", "a", "b", "at most", 1.1), 1.1, "<= 1.10", "met", id="within"),
        pytest.param(Bar("m", "a", "b", "at most", 1.1), 1.2, "<= 1.10", "missed", id="over"),
    ],
)
def test_bars(bar: Bar, value: float, told: str, expected: str) -> None:
    assert bar.told == told
    assert verdict(bar.is_met(value)) == expected


def test_bars_of_cases_that_did_not_run_are_left_out() -> None:
    bars = [Bar("both", "a", "b"), Bar("one", "a", "c")]
    compared = compare(bars, {"a": [4.0], "b": [2.0]})
    assert [(bar.measure, found.median) for bar, found in compared] == [("both", 2.0)]
