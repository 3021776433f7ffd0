"""The table under its lock: what requests and the engine loop ask of it, and what a change of it
asks of the loader.

    with shared as table:
        table.release(digest)

Every block is short and does no input or output; orders are passed on at its end, also when it
raised.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType

from jumplora_server.core import AdapterRef, Lease
from jumplora_server.errors import UnknownTask
from jumplora_server.residency.entries import Known, Leased, unknown_task
from jumplora_server.residency.jobs import Jobs
from jumplora_server.residency.table import Table
from jumplora_server.scheduler.claims import Priority


class Shared:
    """One table for all threads; the scheduler's SlotClaims."""

    def __init__(self, table: Table, jobs: Jobs, clock: Callable[[], float]) -> None:
        self._table = table
        self._jobs = jobs
        self._clock = clock
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
        for task in orders.open:
            self._jobs.request("settle", task, urgency="soon")
        if orders.is_freed:
            self._jobs.poke()
        elif orders.is_room_made:
            self._jobs.room_made()

    def acquire(self, task_spec: str, known: Known | None = None) -> Lease | str:
        """Route "task", "task@name" or "task@prefix" and count a lease on the version, in one
        atomic step. Of requests for a task alone its staged version gets its share.

        A cold version gets a lease at once; its sequences wait in the scheduler. Returns a digest
        instead where that version must be given as `known` first. Raises the server's UnknownTask,
        UnknownVersion, AdapterUnavailable.
        """
        with self.naming_closest(task_spec), self as table:
            found = table.acquire(task_spec, self._clock(), known)
        return found if isinstance(found, str) else self.lease(found)

    def claim(self, ref: AdapterRef, priority: Priority) -> tuple[int, ...] | None:
        """See SlotClaims.claim. The caller has a lease on `ref`."""
        with self as table:
            return table.claim(ref.version, "hidden" if priority == "low" else "in_service")

    def unclaim(self, ref: AdapterRef) -> None:
        """See SlotClaims.unclaim."""
        with self as table:
            table.unclaim(ref.version)

    def is_folded(self, ref: AdapterRef) -> bool:
        """Whether rows of a version use a trunk. The caller has a lease on it, and it was loaded
        since: before that, it is not decided."""
        with self as table:
            return bool(table.versions.known[ref.version].folded_depth)

    @contextmanager
    def naming_closest(self, spec: str) -> Generator[None]:
        """Put the closest names into UnknownTask, outside of the lock."""
        try:
            yield
        except UnknownTask:
            task = spec.partition("@")[0]
            raise unknown_task(task, self.closest(task)) from None

    def closest(self, task: str, may_name: Callable[[str], bool] | None = None) -> list[str]:
        """The registered tasks that have names like it and may be named; needs no lock."""
        return self._table.names.closest(task, may_name=may_name)

    def lease(self, leased: Leased) -> Lease:
        """A lease that is counted already; its shares count themselves."""
        digest = leased.ref.version
        return Lease(
            leased.ref,
            leased.manifest,
            lambda: self._count(digest),
            lambda: self._release(digest),
            leased.role,
            leased.is_drawn,
        )

    def _count(self, digest: str) -> None:
        with self as table:
            table.versions.lease(digest)

    def _release(self, digest: str) -> None:
        with self as table:
            table.release(digest)


def uncounted(leased: Leased) -> Lease:
    """A lease for a trial of a version that is loading: the loader keeps it."""
    return Lease(leased.ref, leased.manifest, _nothing, _nothing)


def _nothing() -> None:
    return None
