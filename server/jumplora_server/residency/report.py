"""What the loader tells the metrics, the log and the events that operators look at."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from jumplora_server.errors import UnknownTask
from jumplora_server.events import EventKind, Events
from jumplora_server.metrics.metrics import Metrics
from jumplora_server.metrics.overlap import OverlapSnapshot
from jumplora_server.metrics.state import Stage
from jumplora_server.residency.entries import Freed, LoadFailure, PinState
from jumplora_server.residency.quality import quality_of
from jumplora_server.residency.shared import Shared
from jumplora_server.residency.status import TaskStatus, Tier, status_of
from jumplora_server.tracing.tracer import Loading

AT_ONCE = 32  # a tenth of a millisecond
_log = logging.getLogger(__name__)


class Report:
    """Turns changes into verbs. Ends with the state of the task each time."""

    def __init__(
        self,
        metrics: Metrics,
        events: Events,
        shared: Shared,
        tier: Tier,
        clock: Callable[[], float],
    ) -> None:
        """`tier` is where the engine keeps adapters."""
        self.compared: tuple[OverlapSnapshot, ...] = ()
        self.used_bytes = 0  # after the last change
        self.on_load: Callable[[Loading], None] = lambda loading: None
        self._metrics = metrics
        self._events = events
        self._shared = shared
        self._tier: Tier = tier
        self._clock = clock

    def statuses(self, tasks: Sequence[str] | None = None) -> Iterator[TaskStatus]:
        """Of those tasks that are registered, or of all, sorted. A few at a time are of one moment,
        so that nothing waits for long."""
        if tasks is None:
            with self._shared as table:
                routes = table.routing.routes
            tasks = sorted(routes)
        for start in range(0, len(tasks), AT_ONCE):
            with self._shared as table:
                now, registered = self._clock(), table.routing.routes
                some = [
                    status_of(table, task, self._tier, now)
                    for task in tasks[start : start + AT_ONCE]
                    if task in registered  # it may have been forgotten since
                ]
            yield from some

    def status(self, task: str) -> TaskStatus:
        """Raises UnknownTask."""
        with self._shared as table:
            return status_of(table, task, self._tier, self._clock())

    def state(self, task: str) -> None:
        """The task's state, memory and version as they are now."""
        self._memory()
        try:
            status = self.status(task)
        except UnknownTask:
            return  # forgotten since
        if (staged := status.staged) is None:
            self._metrics.staged(task, None, 0.0)
        else:
            share = staged.staged.share if staged.is_open else 0.0
            self._metrics.staged(task, staged.version, share)
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

    def loaded(
        self, task: str, version: str, seconds: Mapping[Stage, float], times: tuple[float, float]
    ) -> None:
        """A version became resident; after `state`, which registers the task.

        `times` are those of the load's beginning and end, on the clock.
        """
        stages = {str(stage): each for stage, each in seconds.items()}
        self.on_load(Loading(task, version, *times, stages))
        self.state(task)
        self._metrics.adapter_loaded(task, seconds)
        _log.info(
            "task %s: version %s is loaded, %.3f s (%s)",
            task,
            version[:12],
            sum(seconds.values()),
            ", ".join(f"{stage} {each:.3f}" for stage, each in seconds.items()),
        )
        took = sum(seconds.values())
        self._event("loaded", task, version, f"Version {version[:12]} was loaded in {took:.2f} s.")

    def failed(
        self, task: str, version: str, failure: LoadFailure, began: float, *, is_news: bool
    ) -> None:
        """A version could not be loaded; with `is_news` not for the same reason as before."""
        self.on_load(Loading(task, version, began, self._clock(), {}, failure.code))
        self.state(task)
        self._metrics.adapter_load_failed(task, failure.code)
        if is_news:
            self._failure(task, version, failure, f"Version {version[:12]} does not load: ")

    def blamed(self, task: str, failure: LoadFailure, *, is_news: bool) -> None:
        """The store does not say what the task should serve."""
        self.state(task)
        if is_news:
            self._failure(task, None, failure, "The store does not say what to serve: ")

    def flipped(self, task: str, version: str, move: Literal["forward", "back"]) -> None:
        """Another version answers from now on."""
        self.state(task)
        self._metrics.swapped(task)
        way = "went back to" if move == "back" else "now answers with"
        _log.info("task %s %s version %s", task, way, version[:12])
        if move == "back":
            self._metrics.rolled_back(task)
            text = f"The task went back to version {version[:12]}."
            self._event("rolled_back", task, version, text)
        else:
            text = f"Version {version[:12]} now answers."
            self._event("switched", task, version, text)

    def staged(self, task: str, version: str, share: float) -> None:
        """A staged version is open for its share."""
        self.state(task)
        _log.info("task %s: version %s gets a share of %g", task, version[:12], share)
        text = f"Version {version[:12]} is staged and gets a share of {share:.4g}."
        self._event("staged", task, version, text)

    def unstaged(self, task: str, version: str) -> None:
        """A version is staged no longer; it may be the current one by now."""
        self.state(task)
        _log.info("task %s: version %s is staged no longer", task, version[:12])
        self._event("unstaged", task, version, f"Version {version[:12]} is staged no longer.")

    def freed(self, freed: Freed) -> None:
        """A version or a trunk left memory."""
        if freed.task:
            self._metrics.evicted(freed.task, freed.reason)
            self.state(freed.task)
            if freed.reason == "lru":
                text = f"Version {freed.version[:12]} left memory to make room for another."
                self._event("evicted", freed.task, freed.version, text)
        else:
            self._memory()

    def overlaps(self, overlaps: Iterable[OverlapSnapshot]) -> None:
        """How served versions overlap, as far as they were compared."""
        self.compared = tuple(overlaps)
        self._metrics.adapter_overlaps(self.compared)

    def removed(self, task: str) -> None:
        """Nothing is left of a forgotten task."""
        self._metrics.task_removed(task)
        self._event("removed", task, None, "The task was removed with all its versions.")

    def pinned(self, task: str, pinned: PinState) -> None:
        """An operator changed whether what the task serves may leave memory."""
        stays = "stays in memory until the server restarts"
        how = stays if pinned == "pinned" else "may leave memory again"
        self._event(pinned, task, None, f"The task {how}.")

    def store(self, fault: str | None) -> None:
        """The store cannot be read from now on, or (None) can be again."""
        text = f"The store cannot be read: {fault}" if fault else "The store can be read again."
        self._events.add("server", text)

    def _event(self, kind: EventKind, task: str, version: str | None, text: str) -> None:
        self._events.add(kind, text, task=task, version=version)

    def _failure(self, task: str, version: str | None, failure: LoadFailure, before: str) -> None:
        narrow = None if failure.narrow is None else before + failure.narrow
        text = before + failure.message
        self._events.add("failed", text, task=task, version=version, narrow=narrow)

    def _memory(self) -> None:
        with self._shared as table:
            versions = table.versions
            used, budget = versions.used_bytes, versions.budget_bytes
            trunks = [trunk.nbytes for trunk in versions.trunks]
        self.used_bytes = used
        self._metrics.budget(used, budget)
        self._metrics.trunks(len(trunks), sum(trunks))
