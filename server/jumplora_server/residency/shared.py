"""The table under its lock, and what a change of it asks of the loader.

    with shared as table:
        table.release(digest)

Every block is short and does no input or output; orders are passed on at its end, also when it
raised.
"""

from __future__ import annotations

import threading
from types import TracebackType

from jumplora_server.residency.jobs import Jobs
from jumplora_server.residency.known import Leased
from jumplora_server.residency.table import Table
from jumplora_server.routing import Lease


class Shared:
    """One table for all threads."""

    def __init__(self, table: Table, jobs: Jobs) -> None:
        self._table = table
        self._jobs = jobs
        self._lock = threading.Lock()

    def __enter__(self) -> Table:
        self._lock.acquire()
        return self._table

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            orders = self._table.take_orders()
        finally:
            self._lock.release()
        for digest in orders.fetch:
            self._jobs.request("fetch", digest)
        for task in orders.settle:
            self._jobs.request("settle", task, failures="retry", urgency="soon")
        if orders.is_freed:
            self._jobs.poke()
        elif orders.is_room_made:
            self._jobs.room_made()

    def lease(self, leased: Leased) -> Lease:
        """A lease that is counted already; its shares count themselves."""
        digest = leased.ref.version
        return Lease(
            leased.ref, leased.manifest, lambda: self._count(digest), lambda: self._release(digest)
        )

    def _count(self, digest: str) -> None:
        with self as table:
            table.count(digest)

    def _release(self, digest: str) -> None:
        with self as table:
            table.release(digest)


def uncounted(leased: Leased) -> Lease:
    """A lease for a trial of a version that is loading: the loader keeps it."""
    return Lease(leased.ref, leased.manifest, _nothing, _nothing)


def _nothing() -> None:
    return None
