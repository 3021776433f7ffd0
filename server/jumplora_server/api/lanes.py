"""Two threads for work on what requests send: one for small ones, one for large ones.

A small request never waits behind a large one. Large ones take turns, whatever their number: in
their thread they share the interpreter with the event loop, on which each would hold up all others
once a turn; and together they take one core at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


class Lane:
    """One thread, and what waits for it in order of arrival.

    The thread goes from one job to the next by itself: a limiter of anyio would have each of them
    wait for a turn of the event loop, and a loop with many requests takes long turns.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._jobs = 0

    @property
    def jobs(self) -> int:
        """Those that wait, and the one that runs. Of the event loop's thread."""
        return self._jobs

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`. A job that has begun runs to its end, also if nothing awaits it."""
        self._jobs += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._jobs -= 1


@dataclass(frozen=True, slots=True)
class Lanes:
    """The common threads of anyio may be used up by waits for a disk."""

    small: Lane = field(default_factory=lambda: Lane("small"))
    large: Lane = field(default_factory=lambda: Lane("large"))
