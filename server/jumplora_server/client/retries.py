"""When a call is sent again, and after how long. Decides only; the clients wait and send."""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from jumplora_server.client.calls import Repeat
from jumplora_server.client.errors import Overloaded, RequestFailed, ServerFailed, Unreachable

FIRST_WAIT = 0.25  # seconds, where the server asked for less; it doubles with each try
# Codes of 503 and 429 that are answered before anything is done.
_NOT_BEGUN = frozenset({"queue_full", "task_quota", "key_quota", "draining"})
_PROXIES = frozenset({502, 504})


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a call is sent again, and how long it may take in all; seconds.

    `fraction` draws from 0 to 1, so that many clients do not come back at the same time. `polls`:
    ask again after `max_wait` at most, however long the server asked to wait.
    """

    retries: int = 2
    max_wait: float = 30.0
    timeout: float = 120.0
    fraction: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic
    polls: bool = False

    def as_long_as_possible(self) -> Patience:
        """The same with as many tries as the time allows, unless there are to be none."""
        return self if self.retries == 0 else replace(self, retries=sys.maxsize)

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries}; give 0 or more")
        for name, seconds in (("max_wait", self.max_wait), ("timeout", self.timeout)):
            if not 0 < seconds < math.inf:
                raise ValueError(f"{name} is {seconds}; give seconds over 0")


class Tries:
    """The tries of one call, within one patience."""

    def __init__(self, patience: Patience, repeat: Repeat) -> None:
        self._patience = patience
        self._repeat = repeat
        self._made = 0
        self._end = patience.clock() + patience.timeout

    @property
    def seconds_left(self) -> float:
        """Of the call's time; never below a millisecond."""
        return max(0.001, self._end - self._patience.clock())

    def wait_after(self, failure: RequestFailed) -> float:
        """Seconds to wait before the next try. Raises the failure where there is none."""
        patience = self._patience
        if self._made >= patience.retries or not may_repeat(self._repeat, failure):
            raise failure
        asked = failure.retry_after or 0.0
        wait = min(asked, patience.max_wait) if patience.polls else asked
        if wait < FIRST_WAIT:  # "at once" would be hundreds of times a second
            longest = min(FIRST_WAIT * 2.0 ** min(self._made, 30), patience.max_wait)
            wait = max(wait, longest * (1 + patience.fraction()) / 2)
        if wait > patience.max_wait:
            raise failure  # earlier it would be refused again
        if wait >= self._end - patience.clock():
            raise failure  # there would be no time left to ask
        self._made += 1
        return wait


def may_repeat(repeat: Repeat, failure: RequestFailed) -> bool:
    """Whether it is safe to send a call again after this, and of any use."""
    if isinstance(failure, Unreachable) and not failure.was_sent:
        return True
    if isinstance(failure, Overloaded) and failure.code in _NOT_BEGUN:
        return True
    if repeat == "unless_begun":
        return False
    if isinstance(failure, ServerFailed):
        return failure.status in _PROXIES and failure.code == "http"
    return isinstance(failure, Overloaded) or (
        isinstance(failure, Unreachable) and failure.code != "timeout"
    )
