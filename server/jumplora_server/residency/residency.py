"""The facade of residency: who may use which version, and what is loaded where.

SKELETON: the signatures are final, the bodies follow.
"""

from __future__ import annotations

from concurrent.futures import Future

from jumplora_server.residency.status import PinState, TaskStatus
from jumplora_server.routing import Lease


class Residency:
    """All methods are thread-safe and short, except `start` and `stop`."""

    def start(self) -> None:
        """Register the store's tasks and start the loader and the watcher. Returns once all tasks
        are routable; their first loads go on behind (`settled`). Start the engine loop before."""

    def stop(self) -> None:
        """Stop both threads and free every slot. Stop the engine loop before."""

    def acquire(self, task_spec: str) -> Lease:
        """Route "task" or "task@prefix" and count a lease on the version, in one atomic step.

        Raises server errors UnknownTask, UnknownVersion, AdapterUnavailable. A cold version gets a
        lease at once; its sequences wait in the scheduler. The first use of an old version
        may read one file header.
        """
        raise NotImplementedError

    def statuses(self) -> list[TaskStatus]:
        """All registered tasks, sorted by id."""
        raise NotImplementedError

    def status(self, task: str) -> TaskStatus:
        """Raises server error UnknownTask."""
        raise NotImplementedError

    def sync(self, task: str) -> Future[TaskStatus]:
        """Apply the store's pointer of `task` now; resolves when it is READY, or was refused
        (`failure`, `state` FAILED where no version is served). UnknownTask is set as exception."""
        raise NotImplementedError

    def load(self, task: str) -> Future[TaskStatus]:
        """Make the task resident now, evicting others where needed; retries failed versions."""
        raise NotImplementedError

    def pin(self, task: str, pinned: PinState) -> None:
        """Keep the task's served version from eviction, or no longer. Raises UnknownTask."""

    def forget(self, task: str) -> None:
        """After store.remove: no new leases; running sequences end, then all is freed."""

    def check_fits(self, nbytes: int) -> None:
        """Raise OutOfMemoryBudget when `nbytes` could not be resident beside what is pinned."""

    def notify(self) -> None:
        """Compare the store's pointers now instead of within the watcher's period."""

    @property
    def healthy(self) -> bool:
        """Whether loader and watcher run."""
        raise NotImplementedError

    @property
    def settled(self) -> bool:
        """Whether the loads of the start are through."""
        raise NotImplementedError
