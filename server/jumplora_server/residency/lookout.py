"""The lookout: finds a task that was published a moment ago, before the watcher noticed it.

A request for a task that is not registered may be for one that is in the store already. Looking
costs one file, so it is rationed: whoever tries names at random gets the 404 without a look.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from jumplora_server.residency.status import TaskStatus


class Lookout:
    """Thread-safe. Looks are shared by all who ask for the same task meanwhile."""

    def __init__(
        self,
        look: Callable[[str, Future[TaskStatus]], None],
        clock: Callable[[], float],
        *,
        pause_seconds: float = 0.2,
        burst: int = 16,
    ) -> None:
        """`look(task, done)` reads the store and sees to it that `done` ends.

        One look each `pause_seconds` is allowed in the long run, and up to `burst` at once.
        """
        self._look = look
        self._clock = clock
        self._pause_seconds = pause_seconds
        self._burst = burst
        self._lock = threading.Lock()
        self._rested_at = clock()  # when the whole burst is, or was, allowed again
        self._under_way: dict[str, Future[TaskStatus]] = {}

    def look_for(self, task: str) -> Future[TaskStatus] | None:
        """Look for `task`, or join who does; None when there were too many looks of late."""
        with self._lock:
            self._under_way = {t: f for t, f in self._under_way.items() if not f.done()}
            if task in self._under_way:
                return self._under_way[task]
            rested_at = max(self._rested_at, self._clock()) + self._pause_seconds
            if rested_at > self._clock() + self._burst * self._pause_seconds + 1e-9:
                return None
            self._rested_at = rested_at
            done = self._under_way[task] = Future()
        self._look(task, done)
        return done
