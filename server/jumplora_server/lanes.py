"""Two threads for work on what requests send: one for small ones, one for large ones.

A small request never waits behind a large one. In each thread tasks take turns, so one task's
texts are not another's wait. Large work shares the interpreter with the event loop from a thread,
on which it would hold up all others once a turn; and together it takes one core at most.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


class Lane:
    """One thread, and what waits for it: in turn by task, in order of arrival within one.

    The thread goes from one job to the next by itself: a limiter of anyio would have each of them
    wait for a turn of the event loop, and a loop with many requests takes long turns.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._lines: dict[str | None, deque[tuple[Future[Any], Callable[[], Any]]]] = {}
        self._jobs = 0

    @property
    def jobs(self) -> int:
        """Those that wait, and the one that runs. Of the event loop's thread."""
        return self._jobs

    async def run(self, task: str | None, work: Callable[[], T]) -> T:
        """The result of `work`, of that task. What is cancelled before it begins is not done."""
        done: Future[T] = Future()
        with self._lock:
            self._lines.setdefault(task, deque()).append((done, work))
        self._jobs += 1
        self._thread.submit(self._next)
        try:
            return await asyncio.wrap_future(done)
        finally:
            self._jobs -= 1

    def _next(self) -> None:
        """Do the first job of the task whose turn it is, which then goes to the end."""
        with self._lock:
            task, line = next(iter(self._lines.items()))
            done, work = line.popleft()
            del self._lines[task]
            if line:
                self._lines[task] = line
        if not done.set_running_or_notify_cancel():
            return
        try:
            done.set_result(work())
        except BaseException as error:  # raised where it is awaited
            done.set_exception(error)


@dataclass(frozen=True, slots=True)
class Lanes:
    """The common threads of anyio may be used up by waits for a disk."""

    small: Lane = field(default_factory=lambda: Lane("small"))
    large: Lane = field(default_factory=lambda: Lane("large"))
