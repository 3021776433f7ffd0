"""Cases in turn, A B C A B C, so that a slower minute of the machine hits every one of them."""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jumplora_bench.cases.case import Case, Lap

Laps = Mapping[str, Sequence[Lap]]


def run_rounds(
    cases: Sequence[Case], rounds: int, on_lap: Callable[[str], None] = lambda name: None
) -> dict[str, list[Lap]]:
    """The laps of every case, by its name; one warm-up round before is not kept."""
    laps: dict[str, list[Lap]] = {case.name: [] for case in cases}
    gc.collect()
    gc.freeze()  # a collection walks no object of what was built, a third of a second otherwise
    try:
        for turn in range(rounds + 1):
            for case in cases:
                gc.collect()  # a collection of another case's garbage is not this one's time
                on_lap(case.name)
                lap = case.run()
                if turn:
                    laps[case.name].append(lap)
    finally:
        gc.unfreeze()
    return laps


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and most of some measured values of one unit."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Ratio of the medians, with the least and most ratio within one round.

    Over 0 it is infinite: a window in which nothing was answered.
    """
    per_round = [_ratio(a, b) for a, b in zip(over, under, strict=True)]
    medians = _ratio(statistics.median(over), statistics.median(under))
    return Spread(medians, min(per_round), max(per_round))


def _ratio(over: float, under: float) -> float:
    return over / under if under else math.inf


def same_share(
    ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """Shares of equal tokens, and of rows whose tokens are all equal."""
    pairs = [list(zip(a, b, strict=True)) for a, b in zip(ours, theirs, strict=True)]
    tokens = [a == b for row in pairs for a, b in row]
    rows = [all(a == b for a, b in row) for row in pairs]
    return sum(tokens) / len(tokens), sum(rows) / len(rows)
