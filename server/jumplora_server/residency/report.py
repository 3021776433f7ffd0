"""What the loader tells the metrics and the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

from jumplora_server.errors import UnknownTask
from jumplora_server.metrics.metrics import Metrics
from jumplora_server.metrics.overlap import OverlapSnapshot
from jumplora_server.metrics.state import Stage
from jumplora_server.residency.quality import quality_of
from jumplora_server.residency.shared import Shared
from jumplora_server.residency.status import TaskStatus, Tier
from jumplora_server.residency.version import Freed

AT_ONCE = 32  # a tenth of a millisecond
_log = logging.getLogger(__name__)


class Report:
    """Turns changes into verbs. Ends with the state of the task each time."""

    def __init__(
        self, metrics: Metrics, shared: Shared, tier: Tier, clock: Callable[[], float]
    ) -> None:
        """`tier` is where the engine keeps adapters."""
        self._metrics = metrics
        self._shared = shared
        self._tier: Tier = tier
        self._clock = clock

    def statuses(self) -> Iterator[TaskStatus]:
        """All tasks, sorted. A few at a time are of one moment, so that nothing waits for long."""
        with self._shared as table:
            routes = table.routing.routes
        tasks = sorted(routes)
        for start in range(0, len(tasks), AT_ONCE):
            with self._shared as table:
                some = table.statuses(tasks[start : start + AT_ONCE], self._tier, self._clock())
            yield from some

    def status(self, task: str) -> TaskStatus:
        """Raises UnknownTask."""
        with self._shared as table:
            return table.status(task, self._tier, self._clock())

    def state(self, task: str) -> None:
        """The task's state, memory and version as they are now."""
        with self._shared as table:
            used, budget = table.versions.used_bytes, table.versions.budget_bytes
        self._metrics.budget(used, budget)
        try:
            status = self.status(task)
        except UnknownTask:
            return  # forgotten since
        self._metrics.adapter_state(
            task,
            status.version,
            status.state.value,
            bytes_by_tier={
                "disk": status.bytes_disk,
                "host": status.bytes_host,
                "device": status.bytes_device,
            },
            nonzeros=status.nonzeros,
            density=status.density,
            degraded=status.degraded,
            quality=quality_of(status),
        )

    def loaded(self, task: str, version: str, seconds: Mapping[Stage, float]) -> None:
        """A version became resident; after `state`, which registers the task."""
        self.state(task)
        self._metrics.adapter_loaded(task, seconds)
        _log.info(
            "task %s: version %s is loaded, %.3f s", task, version[:12], sum(seconds.values())
        )

    def failed(self, task: str, code: str) -> None:
        """A version could not be loaded."""
        self.state(task)
        self._metrics.adapter_load_failed(task, code)

    def flipped(self, task: str, version: str, move: Literal["forward", "back"]) -> None:
        """Another version answers from now on."""
        self.state(task)
        self._metrics.swapped(task)
        way = "went back to" if move == "back" else "now answers with"
        _log.info("task %s %s version %s", task, way, version[:12])
        if move == "back":
            self._metrics.rolled_back(task)

    def freed(self, freed: Freed) -> None:
        """A version left memory."""
        self._metrics.evicted(freed.task, freed.reason)
        self.state(freed.task)

    def overlaps(self, overlaps: Iterable[OverlapSnapshot]) -> None:
        """How served versions overlap, as far as they were compared."""
        self._metrics.adapter_overlaps(overlaps)

    def removed(self, task: str) -> None:
        """Nothing is left of a forgotten task."""
        self._metrics.task_removed(task)
