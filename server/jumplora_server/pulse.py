"""What one of the server's threads is doing, and since when.

Must not know what any thread does, nor what is done about one that died or stands still.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

_log = logging.getLogger(__name__)

State = Literal["new", "running", "ended", "died"]


@dataclass(frozen=True, slots=True)
class Glance:
    """A thread at one moment. `seconds` says for how long it has been `doing` that; 0 when idle."""

    name: str
    state: State
    doing: str | None
    seconds: float


class Pulse:
    """Written by its thread alone and read by any other; no lock is taken."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self._name = name
        self._clock = clock
        self._state: State = "new"
        self._task: tuple[str, float] | None = None  # replaced as a whole, for readers' sake

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Say what is done from here on. It nests: at the end the outer one counts from 0, as a
        thread that finished a part of its work does not stand still."""
        outer = self._task
        self._task = (what, self._clock())
        try:
            yield
        finally:
            self._task = None if outer is None else (outer[0], self._clock())

    def run(self, target: Callable[[], None]) -> None:
        """The body of the thread. What `target` raises is logged and means that it died."""
        self._state = "running"
        try:
            target()
        except BaseException:  # SystemExit too, which threading ends a thread with in silence
            self._state = "died"
            _log.critical("the %s thread died", self._name, exc_info=True)
        else:
            self._state = "ended"

    @property
    def glance(self) -> Glance:
        """What the thread is doing now."""
        task = self._task
        if task is None:
            return Glance(self._name, self._state, None, 0.0)
        what, since = task
        return Glance(self._name, self._state, what, max(0.0, self._clock() - since))
