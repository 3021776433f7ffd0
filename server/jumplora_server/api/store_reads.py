"""Looks at the store that a request needs: on threads of their own, and with a limit.

A store that hangs (a network share that went away) must hold neither the pool of threads that all
requests share, nor the process at its end, nor a client for longer than `seconds`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from jumplora_server.errors import AdapterUnavailable

T = TypeVar("T")


class StoreReads:
    """For one event loop."""

    def __init__(self, most: int = 8, seconds: float = 10.0) -> None:
        """At most `most` run at a time; one that takes longer than `seconds`, its wait for a
        thread included, is answered without its result."""
        self._places = asyncio.Semaphore(most)
        self._seconds = seconds

    async def run(self, read: Callable[[], T], give_back: Callable[[T], object]) -> T:
        """What `read` returns or raises; `give_back` gets a result that came too late.

        Raises AdapterUnavailable (store) after the limit.
        """
        try:
            async with asyncio.timeout(self._seconds):
                await self._places.acquire()
                done = self._started(read)
                try:
                    return await asyncio.shield(asyncio.wrap_future(done))
                except asyncio.CancelledError:
                    done.add_done_callback(lambda late: _return(late, give_back))
                    raise
        except TimeoutError as error:
            raise AdapterUnavailable(
                f"the store did not answer within {self._seconds:g} s", reason="store",
                retry_after=5.0,
            ) from error  # fmt: skip

    def _started(self, read: Callable[[], T]) -> Future[T]:
        done: Future[T] = Future()
        loop = asyncio.get_running_loop()

        def run() -> None:
            try:
                result = read()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(result)
            finally:
                with suppress(RuntimeError):  # a loop that was closed since needs no place
                    loop.call_soon_threadsafe(self._places.release)

        # A daemon: one that hangs in a system call must not hold the end of the process.
        threading.Thread(target=run, name="store-read", daemon=True).start()
        return done


def _return(late: Future[T], give_back: Callable[[T], object]) -> None:
    if late.exception() is None:
        give_back(late.result())
