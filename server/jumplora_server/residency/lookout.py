"""The lookout: finds a task that was published a moment ago, before the watcher noticed it.

A request for a task that is not registered may be for one that is in the store already. Looking
costs one file, so it is rationed: a client that guesses names gets the 404 without a look.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from jumplora_server.residency.status import TaskStatus


class Ration:
    """How often something may be done. Thread-safe."""

    def __init__(
        self, clock: Callable[[], float], *, pause_seconds: float = 0.2, burst: int = 16
    ) -> None:
        """Once each `pause_seconds` in the long run, and up to `burst` times at once."""
        self._clock = clock
        self._pause_seconds = pause_seconds
        self._burst_seconds = burst * pause_seconds + 1e-9
        self._lock = threading.Lock()
        self._rested_at = clock()  # when the whole burst is, or was, allowed again

    @property
    def is_left(self) -> bool:
        """Whether `try_take` would succeed now."""
        now = self._clock()
        return self._next(now) <= now + self._burst_seconds

    def try_take(self) -> bool:
        """Count it once; False when it was done too often of late."""
        with self._lock:
            now = self._clock()
            rested_at = self._next(now)
            if rested_at > now + self._burst_seconds:
                return False
            self._rested_at = rested_at
            return True

    def _next(self, now: float) -> float:
        return max(self._rested_at, now) + self._pause_seconds


class Lookout:
    """Thread-safe. Requests for the same task at the same time share a look."""

    def __init__(self, look: Callable[[str, Future[TaskStatus]], None], ration: Ration) -> None:
        """`look(task, done)` reads the store and sees to it that `done` ends."""
        self._look = look
        self._ration = ration
        self._lock = threading.Lock()
        self._under_way: dict[str, Future[TaskStatus]] = {}

    def may_look_for(self, task: str) -> bool:
        """Whether `look_for` would give a future now."""
        under_way = self._under_way.get(task)
        return self._ration.is_left or (under_way is not None and not under_way.done())

    def look_for(self, task: str) -> Future[TaskStatus] | None:
        """Look for `task`, or join a look under way; None when there were too many of late."""
        with self._lock:
            self._under_way = {t: f for t, f in self._under_way.items() if not f.done()}
            if task in self._under_way:
                return self._under_way[task]
            if not self._ration.try_take():
                return None
            done = self._under_way[task] = Future()
        self._look(task, done)
        return done
