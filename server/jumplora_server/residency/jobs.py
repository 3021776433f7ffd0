"""What the loader has to do, in order and merged. Thread-safe; knows no slots and no files.

Of one task or version at most one job is pending, so that publishes which arrive during a load
come to one more load: that of the newest. What is waited for comes first, then what changed in the
store, then the bulk of a start and retries, then comparisons.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from jumplora_server.residency.status import TaskStatus
from jumplora_server.residency.versions import Room

# Make a task serve what it should; load one version; compare two served versions (subject: "").
Kind = Literal["settle", "fetch", "compare"]
Failures = Literal["keep", "retry"]  # versions that failed: wait for their time, or try again now
# "now": somebody waits for it; "soon": the store changed; "later": first loads of a start, retries.
Urgency = Literal["now", "soon", "later"]
_ORDER: tuple[Urgency, ...] = ("now", "soon", "later")


@dataclass(slots=True, eq=False)
class Job:
    """`subject` is a task (settle), a digest (fetch) or nothing (compare)."""

    kind: Kind
    subject: str
    room: Room
    failures: Failures
    urgency: Urgency
    at: float  # not before; monotonic seconds
    due: float  # when others shall yield if it still waits for room; monotonic seconds
    futures: list[Future[TaskStatus]] = field(default_factory=list)
    lacks_room_for: str | None = None  # digest; None: it may be tried
    taken_at: int = 0  # how often room had been made when it was tried


@dataclass(frozen=True, slots=True)
class Turn:
    """What the loader does next, besides freeing what fell free.

    `starving` are digests that waited too long for room; their jobs come again.
    """

    job: Job | None
    starving: tuple[str, ...]


class Jobs:
    """Pending jobs, oldest first."""

    def __init__(self, clock: Callable[[], float], patience_seconds: float) -> None:
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._changed = threading.Condition()
        self._pending: dict[tuple[Kind, str], Job] = {}
        self._times_room_made = 0
        self._is_poked = False
        self._is_stopped = False

    def request(
        self,
        kind: Kind,
        subject: str,
        *,
        room: Room = "evict",
        failures: Failures = "keep",
        urgency: Urgency = "now",
        at: float = 0.0,
        future: Future[TaskStatus] | None = None,
    ) -> bool:
        """Ask for a job, not before `at` (monotonic seconds), or for more of the one that is
        pending; False after `stop`."""
        with self._changed:
            if self._is_stopped:
                return False
            job = self._pending.get((kind, subject))
            if job is None:
                due = max(self._clock(), at) + self._patience_seconds
                job = Job(kind, subject, room, failures, urgency, at, due)
                self._pending[kind, subject] = job
            if room == "evict":
                job.room = "evict"
            job.urgency = min(job.urgency, urgency, key=_ORDER.index)
            job.at = min(job.at, at)
            job.due = min(job.due, max(self._clock(), at) + self._patience_seconds)
            if failures == "retry":
                job.failures, job.lacks_room_for = "retry", None
            if future is not None:
                job.futures.append(future)
            self._changed.notify()
            return True

    def put_back(self, job: Job, lacks_room_for: str) -> bool:
        """It was tried without finding room: it keeps its turn, its futures and its due time.

        False after `stop`.
        """
        with self._changed:
            if self._is_stopped:
                return False
            newer = self._pending.pop((job.kind, job.subject), None)
            if newer is not None:
                job.futures += newer.futures
                job.urgency = min(job.urgency, newer.urgency, key=_ORDER.index)
                job.failures = newer.failures if newer.failures == "retry" else job.failures
            if job.taken_at == self._times_room_made:  # else some was made since
                job.lacks_room_for = lacks_room_for
            self._pending = {(job.kind, job.subject): job, **self._pending}
            return True

    def poke(self) -> None:
        """Something fell free that has to be tidied away; that makes room, too."""
        with self._changed:
            self._is_poked = True
            self._changed.notify()
        self.room_made()

    def room_made(self) -> None:
        """Jobs that wait for room may be tried again."""
        with self._changed:
            self._times_room_made += 1
            for job in self._pending.values():
                if job.lacks_room_for is not None:
                    job.lacks_room_for = None
                    self._changed.notify()

    def next(self) -> Turn | None:
        """Wait for a turn; None after `stop`. For the loader's thread."""
        with self._changed:
            while not self._is_stopped:
                turn = Turn(self._take(), self._take_starving())
                if turn.job or turn.starving or self._is_poked:
                    self._is_poked = False
                    return turn
                due = min(map(_next_look, self._pending.values()), default=None)
                self._changed.wait(None if due is None else max(0.0, due - self._clock()))
            return None

    def stop(self) -> list[Future[TaskStatus]]:
        """End `next`; returns the futures that will get no answer."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
            futures = [future for job in self._pending.values() for future in job.futures]
            self._pending.clear()
            return futures

    def _take(self) -> Job | None:
        now = self._clock()
        ready = [
            (key, job)
            for key, job in self._pending.items()
            if job.lacks_room_for is None and job.at <= now
        ]
        if not ready:
            return None
        key, job = min(ready, key=lambda entry: _rank(entry[1]))  # the oldest of equal ones
        del self._pending[key]
        job.taken_at = self._times_room_made
        return job

    def _take_starving(self) -> tuple[str, ...]:
        now = self._clock()
        starving: list[str] = []
        for job in self._pending.values():
            if job.lacks_room_for is not None and job.due <= now:
                starving.append(job.lacks_room_for)
                job.due, job.lacks_room_for = now + self._patience_seconds, None
        return tuple(starving)


def _rank(job: Job) -> int:
    return len(_ORDER) if job.kind == "compare" else _ORDER.index(job.urgency)


def _next_look(job: Job) -> float:
    """When a job that is not ready may be: its time, or the end of its patience."""
    return job.due if job.lacks_room_for is not None else job.at
