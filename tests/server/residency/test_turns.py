"""A share of requests is kept closely, and by no rule that the order of requests could meet."""

from __future__ import annotations

import random

import pytest

from jumplora_adapters.routing import Staged
from jumplora_server.residency.turns import Turns

SHARES = [0.0, 0.01, 0.1, 0.25, 1 / 3, 0.4, 0.5, 0.6, 0.75, 0.9, 0.99, 1.0]


def turns_of(share: float, count: int, seed: int = 0) -> list[bool]:
    turns, staged = Turns(random.Random(seed)), Staged("a" * 64, share, "now")
    found: list[bool] = []
    for _ in range(count):
        found.append(turns.is_due("a", staged))
        turns.take("a")
    return found


@pytest.mark.parametrize("share", SHARES)
def test_a_share_is_kept_over_any_requests_in_a_row(share: float) -> None:
    found = turns_of(share, 2000)
    for length in (10, 100, 1000):
        counts = [sum(found[at : at + length]) for at in range(len(found) - length + 1)]
        assert max(abs(count - share * length) for count in counts) <= 2
    assert abs(sum(found) - share * len(found)) <= 1


@pytest.mark.parametrize("period", range(2, 13))
@pytest.mark.parametrize("share", [share for share in SHARES if 0 < share < 1])
def test_requests_that_come_in_a_cycle_are_shared_alike(share: float, period: int) -> None:
    """Of each place in the cycle the staged version gets its share."""
    cycles = 6000
    found = turns_of(share, cycles * period)
    for place in range(period):
        got = sum(found[place::period]) / cycles
        assert abs(got - share) <= 5 * (share * (1 - share) / cycles) ** 0.5


def test_a_turn_that_was_not_taken_is_the_next_requests() -> None:
    turns, staged = Turns(random.Random(1)), Staged("a" * 64, 0.3, "now")
    for _ in range(50):
        assert len({turns.is_due("a", staged) for _ in range(5)}) == 1
        turns.take("a")


def test_another_share_begins_anew() -> None:
    turns = Turns(random.Random(1))
    assert turns.is_due("a", Staged("a" * 64, 1.0, "now"))
    assert not turns.is_due("a", Staged("a" * 64, 0.0, "later"))
    turns.forget("a")
    assert turns.is_due("a", Staged("a" * 64, 1.0, "now"))
