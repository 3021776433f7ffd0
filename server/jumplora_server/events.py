"""The last things that happened to adapters and to the server, for people to look at.

Kept in memory alone: a log and the metrics have the rest. Knows no task's tensors and no HTTP.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

EventKind = Literal[
    "loaded",
    "failed",
    "switched",
    "rolled_back",
    "evicted",
    "removed",
    "pinned",
    "unpinned",
    "staged",
    "unstaged",
    "server",
]
MOST_CHARACTERS = 400
_DIGEST = re.compile(r"([0-9a-f]{12})[0-9a-f]{52}")
MOST_EVENTS = 1000  # a key that sees few tasks is to find theirs among those of the others


@dataclass(frozen=True, slots=True)
class Event:
    """`at` is in Unix seconds. `text` is one sentence. `task` is None for the server's own.

    `narrow` is what a key of some tasks reads in place of the text; None: the same.
    """

    at: float
    kind: EventKind
    task: str | None
    version: str | None
    text: str
    narrow: str | None = None


class Events:
    """The newest events; any thread may add one.

    A text keeps twelve digits of each digest in it, and `MOST_CHARACTERS` in all.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)

    def add(
        self,
        kind: EventKind,
        text: str,
        *,
        task: str | None = None,
        version: str | None = None,
        narrow: str | None = None,
    ) -> None:
        """Note that something happened now."""
        narrowed = None if narrow is None else _shown(narrow)
        event = Event(self._clock(), kind, task, version, _shown(text), narrowed)
        with self._lock:
            self._events.append(event)

    def newest(self) -> list[Event]:
        """All that are kept, newest first."""
        with self._lock:
            return list(reversed(self._events))


def _shown(text: str) -> str:
    line = _DIGEST.sub(r"\1", " ".join(text.split()))
    return line if len(line) <= MOST_CHARACTERS else line[: MOST_CHARACTERS - 1] + "…"
