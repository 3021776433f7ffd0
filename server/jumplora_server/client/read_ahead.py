"""Items that are read on a thread and worked at side by side, for an event loop that must not wait.

What reads (a pipe, a database) may take longer than a request has time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

PAUSE_SECONDS = 0.05  # items that wait longer for the next one are not held back for it
T = TypeVar("T")
R = TypeVar("R")
Begun = Callable[[], Awaitable[R]]
"""Waits for a result, which is on its way already."""


async def in_order(
    items: Iterable[T], begin: Callable[[list[T]], Sequence[Begun[R]]], most: int, window: int
) -> AsyncGenerator[tuple[T, R]]:
    """Each item with its result. `begin` is given lists of at most `most`, as they are read.

    At most `window` items are read and not handed on. What reading, `begin` or a result raises is
    raised, behind the results of the items before it.
    """
    reader = Reader(items, window)
    begun: asyncio.Queue[tuple[T, Begun[R]] | BaseException | None] = asyncio.Queue()

    async def begin_all() -> None:
        try:
            while some := await reader.take(most):
                for pair in zip(some, begin(some), strict=True):
                    begun.put_nowait(pair)
            begun.put_nowait(None)
        except BaseException as error:
            begun.put_nowait(error)

    beginning = asyncio.create_task(begin_all())
    try:
        while (found := await begun.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            item, result = found
            yield item, await result()
            reader.handed_on()
    finally:
        reader.close()
        beginning.cancel()
        await asyncio.gather(beginning, return_exceptions=True)


class Reader(Generic[T]):
    """Reads on a thread of its own; at most `window` items are read and not handed on."""

    def __init__(self, items: Iterable[T], window: int) -> None:
        self._free = threading.Semaphore(window)
        self._is_closed = False
        self._loop = asyncio.get_running_loop()
        self._came: asyncio.Queue[T | _End] = asyncio.Queue()
        self._end: _End | None = None
        # A daemon, so that a program can end while a pipe is silent.
        threading.Thread(target=self._read, args=(items,), name="reader", daemon=True).start()

    async def take(self, most: int) -> list[T]:
        """Up to `most` items: those that came before a pause. None at the end."""
        taken: list[T] = []
        while self._end is None and len(taken) < most:
            try:
                # An item that is there is taken without a timer.
                came = self._came.get_nowait()
            except asyncio.QueueEmpty:
                try:
                    async with asyncio.timeout(PAUSE_SECONDS if taken else None):
                        came = await self._came.get()
                except TimeoutError:
                    break
            if isinstance(came, _End):
                self._end = came
            else:
                taken.append(came)
        if not taken and self._end is not None and self._end.error is not None:
            raise self._end.error
        return taken

    def handed_on(self) -> None:
        """One item is out of memory, so that another one may be read."""
        self._free.release()

    def close(self) -> None:
        """Read no more. Does not wait for an item that is being read."""
        self._is_closed = True
        self._free.release()

    def _read(self, items: Iterable[T]) -> None:
        end = _End()
        try:
            each = iter(items)
            while self._free.acquire() and not self._is_closed:
                try:
                    item = next(each)
                except StopIteration:
                    break
                self._put(item)
        except BaseException as error:
            end = _End(error)
        self._put(end)

    def _put(self, item: T | _End) -> None:
        with suppress(RuntimeError):  # the loop was closed: no one waits any more
            self._loop.call_soon_threadsafe(self._came.put_nowait, item)


class _End:
    """Of the items, and what ended them."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


async def on_thread(read: Callable[[], T]) -> T:
    """What `read` returns, which may wait for a pipe."""
    reader = Reader((read() for _ in range(1)), 1)
    try:
        (result,) = await reader.take(1)
        return result
    finally:
        reader.close()
