"""Whether a staged version is worse than the current one, by what was counted of both at the same
time. Decides, never acts.

A version is at fault only if it is worse by as much as the floors say, and by more than chance.
Chance is Fisher's exact test, one-sided: how likely would a version without any fault have drawn so
many of the bad requests, if who gets a request has nothing to do with how it ends? For errors bad
is a request that failed. For latency it is one that took longer than 95 % of the current version's:
then the test is the precedence test, which asks nothing of how durations are distributed. Both
versions get the same mixture of prompts, since only requests are counted whose turn was drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from jumplora_server.metrics.trends import bucket_of, percentile
from jumplora_server.metrics.versions import Counts

CHANCE = 1e-4  # of each of the four tests of a look


@dataclass(frozen=True, slots=True)
class Floors:
    """How much worse a staged version may be.

    It is looked at each time `min_requests` of its requests have ended. `error_points` are a share
    of requests, 0 to 1.
    """

    min_requests: int = 50
    error_points: float = 0.02
    latency_ratio: float = 1.5
    latency_seconds: float = 0.05


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a staged version is to be taken back: for the history and for people."""

    cause: Literal["errors", "latency", "canary", "load"]
    text: str


def judged(staged: Counts, current: Counts, floors: Floors) -> Fault | None:
    """What is wrong with a staged version, by the requests of both in the same time."""
    return _errors(staged, current, floors) or _latency(staged, current, floors)


def _errors(staged: Counts, current: Counts, floors: Floors) -> Fault | None:
    if not staged.requests:
        return None
    if not current.requests:  # the share leaves it none: it would have made no fault
        current = current._replace(requests=staged.requests)
    shares = staged.failed / staged.requests, current.failed / current.requests
    if shares[0] - shares[1] <= floors.error_points:
        return None
    if chance_of(staged.failed, staged.requests, current.failed, current.requests) >= CHANCE:
        return None
    return Fault(
        "errors",
        f"{staged.failed} of its {staged.requests} requests failed ({shares[0]:.1%}), and "
        f"{current.failed} of {current.requests} of the current version ({shares[1]:.1%})",
    )


def _latency(staged: Counts, current: Counts, floors: Floors) -> Fault | None:
    p95, usual = percentile(staged.durations), percentile(current.durations)
    if p95 is None or usual is None:
        return None
    if p95 <= usual * floors.latency_ratio or p95 - usual <= floors.latency_seconds:
        return None
    last = bucket_of(usual)  # what took longer lies behind it
    slow, slow_usual = sum(staged.durations[last + 1 :]), sum(current.durations[last + 1 :])
    all_staged, all_current = sum(staged.durations), sum(current.durations)
    if chance_of(slow, all_staged, slow_usual, all_current) >= CHANCE:
        return None
    return Fault(
        "latency",
        f"95 % of its answers came within {p95:.3g} s, and those of the current version within "
        f"{usual:.3g} s; {slow} of {all_staged} took longer than that",
    )


def chance_of(bad: int, of: int, other_bad: int, of_others: int) -> float:
    """Fisher's exact test: how likely `bad` or more of `of` draws are, where the bad ones of both
    were dealt out without regard to whose they are."""
    all_bad, everything = bad + other_bad, of + of_others
    most = min(all_bad, of)
    whole = _log_choose(everything, all_bad)
    terms = (
        _log_choose(of, k) + _log_choose(of_others, all_bad - k) - whole
        for k in range(bad, most + 1)
        if all_bad - k <= of_others
    )
    return min(1.0, math.fsum(map(math.exp, terms)))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
