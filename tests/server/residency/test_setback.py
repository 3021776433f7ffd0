"""How long it takes until something that failed is tried again."""

from __future__ import annotations

import pytest

from jumplora_server.residency.entries import LoadFailure
from jumplora_server.residency.setback import Setback, Waits, next_setback

FAILURE = LoadFailure("digest", "bit flipped")


def after(times: int, waits: Waits) -> Setback:
    setback: Setback | None = None
    for _ in range(times):
        setback = next_setback(setback, FAILURE, {"d": (1,)}, 100.0, waits)
    assert setback is not None
    return setback


@pytest.mark.parametrize(
    ("times", "wait"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (2000, 60.0)]
)
def test_the_wait_doubles_up_to_a_limit(times: int, wait: float) -> None:
    setback = after(times, Waits())
    assert (setback.attempts, setback.retry_at) == (times, 100.0 + wait)


def test_other_files_begin_anew() -> None:
    before = after(5, Waits())
    assert next_setback(before, FAILURE, {"d": (2,)}, 0.0, Waits()).attempts == 1
    assert next_setback(before, FAILURE, {"d": (1,)}, 0.0, Waits()).attempts == 6


def test_the_same_failure_is_no_news() -> None:
    before = after(1, Waits())
    assert before.is_news
    assert not after(2, Waits()).is_news
    longer = next_setback(before, LoadFailure("digest", "of 7 bytes"), {}, 0.0, Waits())
    assert not longer.is_news, "a file that is still being copied"
    other = next_setback(before, LoadFailure("store", "no such file"), {}, 0.0, Waits())
    assert other.is_news
