"""What the store's logs say of tasks, for people who look at them again and again.

A log is read again once its files have other stamps. Where the store does not answer in time, what
was read last is shown: it is still true, only what came since is not in it.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from jumplora_adapters.errors import AdapterError
from jumplora_adapters.history import HistoryEntry
from jumplora_adapters.regular_file import Stamp
from jumplora_adapters.store import Store
from jumplora_server.errors import ServerError
from jumplora_server.store_threads import StoreThreads

MAX_CHANGES = 200  # of a task, the last ones
MOST_TASKS = 128  # those that were looked at last; each takes 40 KB at most
READS, READ_SECONDS = 2, 1.0  # at a time, and how long one may take


@dataclass(frozen=True, slots=True)
class _Read:
    """`number` counts reads in the order in which they began. A `stamp` of None is never equal."""

    number: int
    stamp: tuple[Stamp | None, ...] | None
    entries: tuple[HistoryEntry, ...]


class Changes:
    """For one event loop."""

    def __init__(self, store: Store, threads: StoreThreads | None = None) -> None:
        self._store = store
        self._threads = threads or StoreThreads(READS, READ_SECONDS, name="store-log")
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._last: OrderedDict[str, _Read] = OrderedDict()

    def known(self, task: str) -> Sequence[HistoryEntry]:
        """What was read last, oldest first; nothing where nothing was."""
        last = self._last.get(task)
        return () if last is None else last.entries

    async def of(self, task: str) -> Sequence[HistoryEntry]:
        """The last changes of a task, oldest first; `known` where the store cannot be read now."""
        number, last = next(self._numbers), self._last.get(task)

        def read() -> None:
            self._keep(task, self._read(task, number, last))

        with suppress(AdapterError, ServerError, OSError):
            await self._threads.run(read, _is_kept)
        return self.known(task)

    def _read(self, task: str, number: int, last: _Read | None) -> _Read:
        stamp = self._store.changes_stamp(task)
        if last is not None and stamp is not None and stamp == last.stamp:
            return _Read(number, stamp, last.entries)
        return _Read(number, stamp, self._store.changes(task)[-MAX_CHANGES:])

    def _keep(self, task: str, read: _Read) -> None:
        """What is read late counts too, unless a read that began later was faster."""
        with self._lock:
            last = self._last.get(task)
            if last is None or last.number < read.number:
                self._last[task] = read
                self._last.move_to_end(task)
                while len(self._last) > MOST_TASKS:
                    self._last.popitem(last=False)


def _is_kept(late: Future[None]) -> None:
    """Nothing is left to do with what came too late."""
