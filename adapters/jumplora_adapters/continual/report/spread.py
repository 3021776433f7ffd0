"""Mean and spread of one number over seeds, and what a difference between two settings is worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev
from typing import Literal

Verdict = Literal["agrees", "disagrees", "within the spread of the seeds"]
_STANDARD_ERRORS = 2


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation (n - 1 in the denominator; None for n = 1) of n values."""

    mean: float
    deviation: float | None
    count: int

    @property
    def standard_error(self) -> float | None:
        return None if self.deviation is None else self.deviation / sqrt(self.count)


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of the values that are there (`count` tells how many); None if there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(mean(known), stdev(known) if len(known) > 1 else None, len(known))


def paired(first: Mapping[int, float | None], second: Mapping[int, float | None]) -> Spread | None:
    """Of first - second over the seeds that both have."""
    pairs = [(first[seed], second[seed]) for seed in first if seed in second]
    return spread(None if a is None or b is None else a - b for a, b in pairs)


def is_decided(difference: Spread) -> bool:
    """Whether a paired difference is more than the seeds explain: beyond two standard errors.

    One seed decides nothing. With three seeds this is a mild test (Student's t has 4.3 there), so
    what it calls decided may still be chance.
    """
    error = difference.standard_error
    return error is not None and abs(difference.mean) > _STANDARD_ERRORS * error


def verdict(difference: Spread, published: float) -> Verdict:
    """Whether the sign of a measured difference is the published one."""
    if not is_decided(difference):
        return "within the spread of the seeds"
    return "agrees" if difference.mean * published > 0 else "disagrees"
