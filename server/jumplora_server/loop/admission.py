"""What comes in: how many requests and tokens may wait, and what the engine thread has to hear.

Places are counted before the text is tokenized, and released once.

A part of everything, a quarter at a share of a half, is kept back for tasks that have nothing
waiting. Of the rest, a task may hold a share of what the others leave free, so its limit sinks as
others come: with a share of a half, one flooding task fills half of it, two a third each, n of them
1/(n + 1) each. (Dynamic thresholds, Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2),
1998.) The part is kept back because limits sink faster than queues.

The scheduler decides what runs.
"""

from __future__ import annotations

import math
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Literal

from jumplora_server.core import EngineLimits, QueueLimits, Sampling, Sequence
from jumplora_server.errors import (
    Draining,
    InputTooLong,
    InvalidInput,
    QueueFull,
    ServerError,
    TaskQuotaExceeded,
)

RejectReason = Literal["queue_requests", "queue_tokens", "task_quota", "draining"]


class Reservation:
    """Counted places in the queue, as many as its sequence needs rows.

    Released when the sequence leaves the queue, or by hand.
    """

    __slots__ = ("_admission", "_held", "arrived", "rows", "task", "tokens")

    def __init__(
        self, admission: Admission, task: str | None, tokens: int, rows: int, arrived: float
    ) -> None:
        self._admission = admission
        self._held = [True]
        self.task = task
        self.tokens = tokens
        self.rows = rows
        self.arrived = arrived

    def release(self) -> None:
        """Give the places back. Any thread, any number of times."""
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
        self._requests_of: Counter[str | None] = Counter()
        self._tokens_of: Counter[str | None] = Counter()
        self._seconds_per_request = 0.1  # moving average of a place while others wait
        self._last_departure: float | None = None

    @property
    def requests(self) -> int:
        """Places taken."""
        return self._requests

    @property
    def tokens(self) -> int:
        """Prompt tokens (or their upper bounds) of the places taken."""
        return self._tokens

    def reserve(
        self, task: str | None, tokens_upper: Rows[int], *, rows: int = 1
    ) -> list[Reservation]:
        """Take the places of each sequence of one request, or none.

        Args:
            tokens_upper: prompt tokens of each sequence; 0 for one that has its prompt in common
                with one before.
            rows: how many each of them needs at the same time.

        Raises Draining, QueueFull or TaskQuotaExceeded, each with `retry_after` in seconds. A task
        that has nothing waiting gets in while there is room, whatever its share, and a prompt
        larger than the whole token cap when nothing waits at all.
        """
        places, tokens = rows * len(tokens_upper), sum(tokens_upper)
        with self._lock:
            refusal = self._refusal(task, places, tokens)
            if refusal is None:
                self._count(task, places, tokens)
                now = self._clock()
                return [Reservation(self, task, upper, rows, now) for upper in tokens_upper]
            error = self._explained(refusal, task)
        self._rejected(refusal)
        raise error

    def resize(self, reservation: Reservation, tokens: int) -> None:
        """Replace the upper bound by the counted prompt tokens. Never refuses."""
        with self._lock:
            self._count(reservation.task, 0, tokens - reservation.tokens)
            reservation.tokens = tokens

    def give_back(self, reservation: Reservation) -> None:
        """Called once by each reservation."""
        with self._lock:
            now = self._clock()
            if self._last_departure is not None and self._requests > 1:
                gap = min(now - self._last_departure, 60.0) / reservation.rows
                self._seconds_per_request += 0.1 * (gap - self._seconds_per_request)
            self._count(reservation.task, -reservation.rows, -reservation.tokens)
            # Idle time says nothing about the pace: an emptied queue starts anew.
            self._last_departure = now if self._requests else None

    def close(self) -> None:
        """Refuse everything from now on with Draining."""
        with self._lock:
            self._closed = True

    def _count(self, task: str | None, requests: int, tokens: int) -> None:
        self._requests += requests
        self._tokens += tokens
        self._requests_of[task] += requests
        self._tokens_of[task] += tokens
        if not self._requests_of[task]:
            del self._requests_of[task], self._tokens_of[task]

    def _refusal(self, task: str | None, requests: int, tokens: int) -> RejectReason | None:
        limits = self._limits
        if self._closed:
            return "draining"
        if limits.task_share < 1 and self._is_over_share(task, requests, tokens):
            return "task_quota"
        if self._requests + requests > limits.max_requests:
            return "queue_requests"
        if self._requests and self._tokens + tokens > limits.max_tokens:
            return "queue_tokens"
        return None

    def _is_over_share(self, task: str | None, requests: int, tokens: int) -> bool:
        held, held_tokens = self._requests_of[task], self._tokens_of[task]
        if not held:
            return False
        most = self._limits.requests_of_a_task(self._requests - held)
        most_tokens = self._limits.tokens_of_a_task(self._tokens - held_tokens)
        return held + requests > most or held_tokens + tokens > most_tokens

    def _explained(self, refusal: RejectReason, task: str | None) -> ServerError:
        limits = self._limits
        if refusal == "draining":
            return Draining("the server is shutting down", retry_after=1.0)
        wait = self._retry_after()
        if refusal != "task_quota":
            return QueueFull(
                f"{self._requests} requests with {self._tokens} tokens wait; allowed are"
                f" {limits.max_requests} and {limits.max_tokens}",
                retry_after=wait,
            )
        name = "the bare backbone" if task is None else f"task {task!r}"
        requests, tokens = self._requests_of[task], self._tokens_of[task]
        return TaskQuotaExceeded(
            f"{name} has {requests} requests with {tokens} tokens waiting; its share beside the"
            f" other tasks is {limits.requests_of_a_task(self._requests - requests)} and"
            f" {limits.tokens_of_a_task(self._tokens - tokens)}",
            retry_after=wait,
        )

    def _retry_after(self) -> float:
        wait = self._requests * self._seconds_per_request * self._rng.uniform(0.8, 1.2)
        return float(max(1, math.ceil(wait)))


def check_limits(
    limits: EngineLimits, prompt: tuple[int, ...], sampling: Sampling, max_beams: int
) -> None:
    """Refuse what the engine cannot hold. Raises InputTooLong, InvalidInput (max_new_tokens,
    num_beams, an option)."""
    allowed = limits.max_source_tokens
    if not 1 <= len(prompt) <= allowed:
        raise InputTooLong(f"the prompt has {len(prompt)} tokens; 1 to {allowed} are allowed")
    allowed = limits.max_target_tokens
    if not 1 <= sampling.max_new_tokens <= allowed:
        raise InvalidInput(
            f"max_new_tokens is {sampling.max_new_tokens}; 1 to {allowed} are allowed"
        )
    if sampling.choices is not None:
        longest, allowed = max(map(len, sampling.choices.trie.ids)), min(allowed, limits.max_nodes)
        if longest > allowed:
            raise InvalidInput(f"an option has {longest} tokens; 1 to {allowed} are allowed")
    if sampling.beams is not None and sampling.beams.width > max_beams:
        raise InvalidInput(f"num_beams is {sampling.beams.width}; 1 to {max_beams} are allowed")


@dataclass(frozen=True, slots=True)
class News:
    """What came in since the last time, in order of arrival. `is_last`: the inbox was closed."""

    arrived: tuple[Sequence, ...]
    cancelled: tuple[int, ...]
    is_last: bool


class Inbox:
    """Other threads write new sequences, cancellations, "look again" and "end"; the engine thread
    reads, and waits here when idle. Thread-safe."""

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

    def put(self, sequences: Iterable[Sequence]) -> bool:
        """Hand sequences over, which arrive together; False once closed."""
        with self._changed:
            if not self._is_closed:
                self._arrived.extend(sequences)
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
