"""How late the event loop wakes up. Every request waits for it at several places of its way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

INTERVAL_SECONDS = 0.25


class LoopLag:
    """A task on the event loop that sleeps, and says by how much it overslept.

    A process that was stopped (SIGSTOP, a suspended machine) has one observation of all that time,
    for clients waited as long; a loop that stands still has one when it runs again.
    """

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """On the event loop that is running."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Also where it was never started."""
        if self._task is None:
            return
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._task = None

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + INTERVAL_SECONDS
            await asyncio.sleep(INTERVAL_SECONDS)
            self._observe(max(0.0, loop.time() - due))
