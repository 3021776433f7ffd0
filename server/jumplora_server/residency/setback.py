"""Why something in the store could not be taken, and when it is tried again: values, no clock.

Every cause can go away by itself (a copy that ends, a disk that has room again), so nothing is
given up: the wait doubles up to a limit, and ends at once when a file that was read has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jumplora_server.routing import LoadFailure

Stamps = Mapping[str, tuple[object, ...]]
"""Digest -> what tells one state of its files from the next; () where the store has none."""


@dataclass(frozen=True, slots=True)
class Waits:
    """How long to wait between tries, in seconds: `first`, doubled each time, at most `longest`."""

    first: float = 1.0
    longest: float = 60.0

    def after(self, attempts: int) -> float:
        """The wait after that many tries, counted from 1."""
        return float(min(self.longest, self.first * 2 ** min(attempts - 1, 30)))


@dataclass(frozen=True, slots=True)
class Setback:
    """`retry_at` is a monotonic time; `seen` are the files of the version and of its ancestors
    as they were before they were read (empty where no file was to be read)."""

    failure: LoadFailure
    attempts: int
    retry_at: float
    seen: Stamps

    def is_news(self, before: Setback | None) -> bool:
        """Whether an operator does not know it yet."""
        return before is None or before.failure != self.failure


def next_setback(
    before: Setback | None, failure: LoadFailure, seen: Stamps, now: float, waits: Waits
) -> Setback:
    """What follows `before`, with a longer wait unless other files were read this time."""
    is_again = before is not None and before.seen == seen
    attempts = before.attempts + 1 if before is not None and is_again else 1
    return Setback(failure, attempts, now + waits.after(attempts), seen)
