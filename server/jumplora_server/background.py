"""Threads whose work requests must not feel: they compute when the engine leaves room.

The loader, the watcher, rendered metrics and checked uploads: each takes processor time by the
second, and on a machine whose cores are all the engine's it would come out of every step.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

NICENESS = 10  # about a tenth of a normal thread's share where both want the processor
THREADS = 4

A = ParamSpec("A")
T = TypeVar("T")


def yield_to_requests() -> None:
    """Lower the calling thread's priority; nothing where a thread has none of its own."""
    if sys.platform == "linux":  # elsewhere this would lower the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class Background:
    """Runs functions for coroutines in a few threads of low priority."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "background", yield_to_requests)

    async def run(self, function: Callable[A, T], *args: A.args, **kwargs: A.kwargs) -> T:
        """Its result, or what it raised."""
        call = self._threads.submit(function, *args, **kwargs)
        return await asyncio.wrap_future(call)

    def stop(self) -> None:
        """Take no more; what runs is waited for."""
        self._threads.shutdown(cancel_futures=True)
