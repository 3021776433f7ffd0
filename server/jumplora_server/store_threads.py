"""Work on the store's folder: on separate threads, a few at a time, and with a limit.

A store that hangs (a network share that went away) must hold neither the pool of threads that all
requests share, nor the process at its end, nor a client for longer than the limit.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from jumplora_adapters.errors import StoreBusy
from jumplora_adapters.store_lock import Patience
from jumplora_server.errors import AdapterUnavailable, ServerError

T = TypeVar("T")


class StoreThreads:
    """For one event loop."""

    def __init__(
        self,
        most: int = 8,
        seconds: float = 10.0,
        *,
        error: type[ServerError] = AdapterUnavailable,
        name: str = "store-read",
    ) -> None:
        """At most `most` run at a time. Work that takes longer than `seconds`, its wait for a
        thread included, is answered with `error`; work that began is still finished."""
        self._places = asyncio.Semaphore(most)
        self._seconds = seconds
        self._error = error
        self._name = name

    async def run(
        self,
        work: Callable[[], T],
        late: Callable[[Future[T]], object],
        patience: Patience | None = None,
    ) -> T:
        """What `work` returns or raises.

        Where the limit passes, or the caller is cancelled, `late` gets the finished work on a
        thread. The wait for a place also ends with `patience`: then StoreBusy is raised.
        """
        try:
            async with asyncio.timeout(self._seconds) as limit:
                await self._place(patience)
                done = self._started(work)
                try:
                    return await asyncio.shield(asyncio.wrap_future(done))
                except asyncio.CancelledError:
                    self._leave(done, late)
                    raise
        except TimeoutError as error:
            if not limit.expired():  # the work's own
                raise
            raise self._error(
                f"the store did not answer within {self._seconds:g} s", reason="store",
                retry_after=5.0,
            ) from error  # fmt: skip

    async def _place(self, patience: Patience | None) -> None:
        if patience is None:
            await self._places.acquire()
            return
        with patience.waiting() as seconds:
            try:
                async with asyncio.timeout(seconds) as limit:
                    await self._places.acquire()
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise StoreBusy(
                    f"other changes of the store took {seconds:g} s, longer than a request waits"
                ) from error

    def _started(self, work: Callable[[], T]) -> Future[T]:
        """Start the work in the place that was taken."""
        done: Future[T] = Future()
        loop = asyncio.get_running_loop()

        def run() -> None:
            try:
                result = work()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(result)
            finally:
                with suppress(RuntimeError):  # a loop that was closed since needs no place
                    loop.call_soon_threadsafe(self._places.release)

        try:
            self._thread(run).start()
        except BaseException:
            self._places.release()
            raise
        return done

    def _leave(self, done: Future[T], late: Callable[[Future[T]], object]) -> None:
        """Have `late` called once the work is done, but never here: it may wait for the store."""
        here = threading.get_ident()

        def on_done(finished: Future[T]) -> None:
            if threading.get_ident() == here:  # it was done just before
                self._thread(lambda: late(finished)).start()
            else:
                late(finished)

        done.add_done_callback(on_done)

    def _thread(self, target: Callable[[], object]) -> threading.Thread:
        # A daemon: one that hangs in a system call must not hold the end of the process.
        return threading.Thread(target=target, name=self._name, daemon=True)


def returned(give_back: Callable[[T], object]) -> Callable[[Future[T]], object]:
    """Give back what came too late; a failure that came too late is nothing."""

    def late(done: Future[T]) -> None:
        if done.exception() is None:
            give_back(done.result())

    return late
