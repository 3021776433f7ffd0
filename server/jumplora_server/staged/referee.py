"""The referee: looks at staged versions again and again, takes back what is worse, and promotes
what was to be promoted by itself.

Runs on the event loop, where requests end. What is worse stops getting its share here at once; then
the store says so, and other servers follow.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

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
    """What was seen of a stage: the counts at the last look, and how many looks found no fault."""

    staged: Staged
    current: str | None
    at: tuple[Counts, Counts] = (NOTHING, NOTHING)
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
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._running = asyncio.create_task(self._run(), name="referee")

    async def stop(self) -> None:
        """End; a change that began is finished."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
            self._running = None

    def looks(self, task: str) -> int:
        """How many looks at a task's staged version found no fault."""
        record = self._records.get(task)
        return 0 if record is None else record.looks

    async def look(self) -> None:
        """Once at all staged versions."""
        staged = [task for task, route in self._residency.routes.items() if route.staged]
        self._records = {t: r for t, r in self._records.items() if t in staged}
        for status in [*self._residency.each_status(staged)]:
            if status.staged is not None:
                await self._look_at(status, status.staged)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except Exception:
                _log.exception("staged versions could not be looked at")

    async def _look_at(self, status: TaskStatus, staged: StagedStatus) -> None:
        task = status.task_id
        record = self._records.get(task)
        if record is None or (record.staged.version, record.current) != (
            staged.version,
            status.version,
        ):
            record = self._records[task] = _Record(staged.staged, status.version)
        record.staged = staged.staged
        if self._clock() < record.again:
            return
        fault = self._fault(task, staged, record)
        if fault is not None:
            if staged.is_open:
                self._residency.shut(task, staged.version, LoadFailure(fault.cause, fault.text))
            await self._act(record, self._take_back(task, staged.version, fault))
        elif self._is_ripe(record):
            await self._act(record, self._promote(task, staged.version))

    def _fault(self, task: str, staged: StagedStatus, record: _Record) -> Fault | None:
        """What is wrong with it; a look without a fault is noted."""
        if staged.failure is not None:
            if not is_lasting(staged.failure):
                return None
            return _as_fault(staged.failure)
        if not staged.is_open or record.current is None:
            return None
        counts = (
            self._metrics.counts_of(task, staged.version),
            self._metrics.counts_of(task, record.current),
        )
        last = counts[0].since(record.at[0]), counts[1].since(record.at[1])
        if last[0].requests < self.floors.min_requests:
            return None
        fault = judged(*last, self.floors) or judged(*counts, self.floors)
        record.at = counts
        record.looks += fault is None
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
        await self._stages.promote(task, version)

    async def _act(self, record: _Record, change: Coroutine[None, None, None]) -> None:
        try:
            with suppress(NotStaged):  # another server or an operator was faster
                await change
        except (AdapterError, ServerError) as error:
            _log.warning("version %s stays staged in the store: %s", record.staged.version, error)
            record.again = self._clock() + AGAIN_SECONDS


def _as_fault(failure: LoadFailure) -> Fault:
    match failure.code:
        case "errors" | "latency" | "canary":
            return Fault(failure.code, failure.message)
        case _:
            return Fault("load", failure.message)
