"""The referee: looks at staged versions again and again, takes back what is worse, and promotes
what was to be promoted by itself.

Runs on the event loop, where requests end. What is worse stops getting its share here at once; then
the store says so, and other servers follow.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from jumplora_adapters.errors import AdapterError
from jumplora_adapters.errors import VersionConflict as NotStaged
from jumplora_adapters.routing import Staged
from jumplora_server.errors import ServerError
from jumplora_server.metrics.metrics import Metrics
from jumplora_server.metrics.versions import NOTHING, Counts
from jumplora_server.residency.entries import LoadFailure
from jumplora_server.residency.residency import Residency
from jumplora_server.residency.status import StagedStatus, TaskStatus
from jumplora_server.staged.judging import Fault, Floors, judged
from jumplora_server.staged.stages import Stages, is_lasting

LOOK_SECONDS = 0.25
AGAIN_SECONDS = 10.0  # after a change that the store refused
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Record:
    """What was seen of both versions since they stand beside each other: their counts at the
    beginning and at the last look, and how many looks found no fault."""

    staged: Staged
    current: str | None
    first: tuple[Counts, Counts]
    last: tuple[Counts, Counts]
    looks: int = 0
    again: float = 0.0  # not before; on the clock


class Referee:
    """Started and stopped on an event loop."""

    def __init__(
        self,
        residency: Residency,
        stages: Stages,
        metrics: Metrics,
        floors: Floors,
        clock: Callable[[], float],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`clock` is monotonic, and `now` the time of day, by which the store notes changes."""
        self.floors = floors
        self._residency = residency
        self._stages = stages
        self._metrics = metrics
        self._clock = clock
        self._now = now
        self._records: dict[str, _Record] = {}
        self._changes: dict[str, asyncio.Task[None]] = {}  # under way, by task
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._running = asyncio.create_task(self._run(), name="referee")

    async def stop(self) -> None:
        """End; a change that began is finished."""
        ended = [*self._changes.values(), *([self._running] if self._running else [])]
        for each in ended:
            each.cancel()
        if ended:
            await asyncio.wait(ended)
        self._running = None

    def looks(self, task: str) -> int:
        """How many looks at a task's staged version found no fault."""
        record = self._records.get(task)
        return 0 if record is None else record.looks

    def look(self) -> None:
        """Once at all staged versions; changes that follow run beside the next looks."""
        staged = [task for task, route in self._residency.routes.items() if route.staged]
        self._records = {t: r for t, r in self._records.items() if t in staged}
        for status in self._residency.each_status(staged):
            if status.staged is not None and status.task_id not in self._changes:
                self._look_at(status, status.staged)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                self.look()
            except Exception:
                _log.exception("staged versions could not be looked at")

    def _look_at(self, status: TaskStatus, staged: StagedStatus) -> None:
        task = status.task_id
        record = self._records.get(task)
        if record is None or (record.staged, record.current) != (staged.staged, status.version):
            counts = NOTHING, NOTHING  # what is counted begins with the stage
            if record is not None and record.staged.version == staged.version:
                counts = self._counts(task, staged.version, status.version)
            record = _Record(staged.staged, status.version, counts, counts)
            self._records[task] = record
        if self._clock() < record.again:
            return
        fault = self._fault(task, staged, record)
        if fault is not None:
            if staged.is_open:
                self._residency.shut(task, staged.version, LoadFailure(fault.cause, fault.text))
            self._begin(task, record, partial(self._take_back, task, staged.version, fault))
        elif self._is_ripe(record):
            self._begin(task, record, partial(self._promote, task, staged.version))

    def _begin(self, task: str, record: _Record, change: Callable[[], Awaitable[None]]) -> None:
        running = asyncio.create_task(self._act(record, change), name=f"referee of {task}")
        self._changes[task] = running
        running.add_done_callback(lambda _: self._changes.pop(task, None))

    def _counts(self, task: str, staged: str, current: str | None) -> tuple[Counts, Counts]:
        of_current = NOTHING if current is None else self._metrics.counts_of(task, current)
        return self._metrics.counts_of(task, staged), of_current

    def _fault(self, task: str, staged: StagedStatus, record: _Record) -> Fault | None:
        """What is wrong with it; a look without a fault is noted."""
        if staged.failure is not None:
            if not is_lasting(staged.failure):
                return None
            return _as_fault(staged.failure)
        if not staged.is_open or record.current is None:
            return None
        counts = self._counts(task, staged.version, record.current)
        lately = counts[0].since(record.last[0]), counts[1].since(record.last[1])
        if lately[0].requests < self.floors.min_requests:
            return None
        in_all = counts[0].since(record.first[0]), counts[1].since(record.first[1])
        fault = judged(*lately, self.floors) or judged(*in_all, self.floors)
        record.last = counts
        # Where the current version got hardly any, nothing was compared.
        record.looks += fault is None and in_all[1].requests >= self.floors.min_requests
        return fault

    def _is_ripe(self, record: _Record) -> bool:
        """Whether it is to be promoted: its time has passed, and a look at least found no fault."""
        after = record.staged.promote_after
        if after is None or not record.looks:
            return False
        return (self._now() - datetime.fromisoformat(record.staged.at)).total_seconds() >= after

    async def _take_back(self, task: str, version: str, fault: Fault) -> None:
        note = f"taken back by itself ({fault.cause}): {fault.text}"
        await self._stages.unstage(task, version, note=note, cause=fault.cause)

    async def _promote(self, task: str, version: str) -> None:
        _log.info("task %s: version %s is promoted by itself", task, version[:12])
        await self._stages.promote(task, version, cause="time")

    async def _act(self, record: _Record, change: Callable[[], Awaitable[None]]) -> None:
        try:
            with suppress(NotStaged):  # another server or an operator was faster
                await change()
        except (AdapterError, ServerError) as error:
            _log.warning("version %s stays staged in the store: %s", record.staged.version, error)
            record.again = self._clock() + AGAIN_SECONDS


def _as_fault(failure: LoadFailure) -> Fault:
    text = failure.narrow or failure.message  # any key that sees the task may read it
    match failure.code:
        case "errors" | "latency" | "canary":
            return Fault(failure.code, text)
        case _:
            return Fault("load", text)
