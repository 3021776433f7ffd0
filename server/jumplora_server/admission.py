"""How many requests and tokens may wait: counted before the text is tokenized, released once.

Holds a lock of its own and nothing else; the scheduler decides what runs.
"""

from __future__ import annotations

import math
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jumplora_server.core import EngineLimits, Sampling
from jumplora_server.errors import (
    Draining,
    InputTooLong,
    InvalidInput,
    QueueFull,
    TaskQuotaExceeded,
)

RejectReason = Literal["queue_requests", "queue_tokens", "task_quota", "draining"]


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Caps on what waits for a row; running sequences do not count."""

    max_requests: int = 256
    max_tokens: int = 65_536
    max_requests_per_task: int = 64


class Reservation:
    """One counted place in the queue. Released when its sequence leaves the queue, or by hand."""

    __slots__ = ("_admission", "_held", "arrived", "task", "tokens")

    def __init__(self, admission: Admission, task: str | None, tokens: int, arrived: float) -> None:
        self._admission = admission
        self._held = [True]
        self.task = task
        self.tokens = tokens
        self.arrived = arrived

    def release(self) -> None:
        """Give the place back. Any thread, any number of times."""
        try:
            self._held.pop()  # atomic: only one of several callers succeeds
        except IndexError:
            return
        self._admission.give_back(self)


class Admission:
    """The queue's places. Thread-safe."""

    def __init__(
        self,
        limits: QueueLimits,
        clock: Callable[[], float],
        rejected: Callable[[RejectReason], None],
        rng: random.Random,
    ) -> None:
        """`rejected` hears the reason of each refusal; `rng` spreads Retry-After."""
        self._limits = limits
        self._clock = clock
        self._rejected = rejected
        self._rng = rng
        self._lock = threading.Lock()
        self._closed = False
        self._requests = 0
        self._tokens = 0
        self._by_task: Counter[str | None] = Counter()
        self._seconds_per_request = 0.1  # moving average between departures while others wait
        self._last_departure: float | None = None

    @property
    def requests(self) -> int:
        """Places taken."""
        return self._requests

    @property
    def tokens(self) -> int:
        """Prompt tokens (or their upper bounds) of the places taken."""
        return self._tokens

    def reserve(self, task: str | None, tokens_upper: int = 0) -> Reservation:
        """Take a place for `task` with at most `tokens_upper` prompt tokens.

        Raises Draining, QueueFull or TaskQuotaExceeded, each with `retry_after` in seconds. A
        prompt larger than the whole token cap is let in when nothing else waits.
        """
        with self._lock:
            refusal = self._refusal(task, tokens_upper)
            if refusal is None:
                self._requests += 1
                self._tokens += tokens_upper
                self._by_task[task] += 1
                return Reservation(self, task, tokens_upper, self._clock())
            retry_after = self._retry_after()
        self._rejected(refusal)
        name = "the bare backbone" if task is None else f"task {task!r}"
        if refusal == "draining":
            raise Draining("the server is shutting down", retry_after=1.0)
        if refusal == "task_quota":
            raise TaskQuotaExceeded(
                f"{name} has {self._limits.max_requests_per_task} requests waiting: its share",
                retry_after=retry_after,
            )
        raise QueueFull(
            f"{self._requests} requests with {self._tokens} tokens wait; allowed are"
            f" {self._limits.max_requests} and {self._limits.max_tokens}",
            retry_after=retry_after,
        )

    def resize(self, reservation: Reservation, tokens: int) -> None:
        """Replace the upper bound by the counted prompt tokens. Never refuses."""
        with self._lock:
            self._tokens += tokens - reservation.tokens
            reservation.tokens = tokens

    def give_back(self, reservation: Reservation) -> None:
        """Called once by each reservation."""
        with self._lock:
            now = self._clock()
            if self._last_departure is not None and self._requests > 1:
                gap = min(now - self._last_departure, 60.0)
                self._seconds_per_request += 0.1 * (gap - self._seconds_per_request)
            self._requests -= 1
            # Idle time says nothing about the pace: an emptied queue starts anew.
            self._last_departure = now if self._requests else None
            self._tokens -= reservation.tokens
            self._by_task[reservation.task] -= 1
            if not self._by_task[reservation.task]:
                del self._by_task[reservation.task]

    def close(self) -> None:
        """Refuse everything from now on with Draining."""
        with self._lock:
            self._closed = True

    def _refusal(self, task: str | None, tokens: int) -> RejectReason | None:
        if self._closed:
            return "draining"
        if self._requests >= self._limits.max_requests:
            return "queue_requests"
        if self._requests and self._tokens + tokens > self._limits.max_tokens:
            return "queue_tokens"
        if self._by_task[task] >= self._limits.max_requests_per_task:
            return "task_quota"
        return None

    def _retry_after(self) -> float:
        wait = self._requests * self._seconds_per_request * self._rng.uniform(0.8, 1.2)
        return float(max(1, math.ceil(wait)))


def check_limits(limits: EngineLimits, prompt: tuple[int, ...], sampling: Sampling) -> None:
    """Refuse what the engine cannot hold. Raises InputTooLong, InvalidInput (max_new_tokens)."""
    allowed = limits.max_source_tokens
    if not 1 <= len(prompt) <= allowed:
        raise InputTooLong(f"the prompt has {len(prompt)} tokens; 1 to {allowed} are allowed")
    allowed = limits.max_target_tokens
    if not 1 <= sampling.max_new_tokens <= allowed:
        raise InvalidInput(
            f"max_new_tokens is {sampling.max_new_tokens}; 1 to {allowed} are allowed"
        )
