"""What other threads tell the engine thread: new sequences, cancellations, "look again", "end".

Holds the one condition on which the idle engine thread waits. Thread-safe.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from jumplora_server.core import Sequence


@dataclass(frozen=True, slots=True)
class News:
    """What came in since the last time, in order of arrival. `is_last`: the inbox was closed."""

    arrived: tuple[Sequence, ...]
    cancelled: tuple[int, ...]
    is_last: bool


class Inbox:
    """Many writers, one reader."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._arrived: list[Sequence] = []
        self._cancelled: list[int] = []
        self._is_woken = False
        self._is_closed = False
        self._is_awaited = False

    @property
    def is_awaited(self) -> bool:
        """Whether the reader waits for news."""
        return self._is_awaited

    def put(self, sequence: Sequence) -> bool:
        """Hand a sequence over; False once closed."""
        with self._changed:
            if not self._is_closed:
                self._arrived.append(sequence)
                self._changed.notify()
            return not self._is_closed

    def cancel(self, sequence_id: int) -> None:
        """Ask for the end of a sequence that was put before."""
        with self._changed:
            self._cancelled.append(sequence_id)
            self._changed.notify()

    def wake(self) -> None:
        """End a wait though nothing came in."""
        with self._changed:
            self._is_woken = True
            self._changed.notify()

    def close(self) -> None:
        """The last news: nothing is put any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def take(self) -> News:
        """What came in, possibly nothing. Does not wait."""
        with self._changed:
            return self._take()

    def wait(self, timeout: float | None) -> News:
        """Wait for news, or for `timeout` seconds (None: as long as it takes)."""
        with self._changed:
            self._is_awaited = True
            self._changed.wait_for(self._has_news, timeout)
            self._is_awaited = False
            return self._take()

    def _has_news(self) -> bool:
        return bool(self._arrived or self._cancelled or self._is_woken or self._is_closed)

    def _take(self) -> News:
        news = News(tuple(self._arrived), tuple(self._cancelled), self._is_closed)
        self._arrived.clear()
        self._cancelled.clear()
        self._is_woken = False
        return news
