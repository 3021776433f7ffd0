"""`GET /v1/overview`: what the console shows.

It is asked every few seconds, so a thousand tasks must cost little: one pass over their statuses,
a few at a time, and everything of one line only for the lines that are shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from jumplora_server.api.ask import Caller, record_of
from jumplora_server.api.health import WithServices, ready_checks, remarks
from jumplora_server.api.middleware import ADMIN_KEY_NEEDED, CHANGES_ARE_OFF
from jumplora_server.api.overview_maps import continual_runs, overlap_map, record_of_run
from jumplora_server.api.overview_schemas import (
    MAX_EVENTS,
    Accuracy,
    EventLine,
    Overview,
    OverviewQuery,
    SortKey,
    Strip,
    TaskLine,
)
from jumplora_server.api.schemas import ErrorBody
from jumplora_server.events import Event
from jumplora_server.metrics.trends import CELL_SECONDS, Trend, Trends
from jumplora_server.residency.quality import score_of
from jumplora_server.residency.status import TaskStatus
from jumplora_server.services import Services
from jumplora_server.version import VERSION

router = APIRouter(prefix="/v1", tags=["server"])
STATUSES_A_TURN = 64  # of the event loop, which others wait for: less than a millisecond
MAX_REASON = 400  # characters of why a task is degraded
# What needs a look comes first.
_STATES = ("FAILED", "LOADING", "DRAINING", "COLD", "READY")
_ERRORS: dict[int | str, dict[str, Any]] = {s: {"model": ErrorBody} for s in (401, 422)}
Rank = str | float | None  # None: not known, so last


@router.get("/overview", response_model=Overview, responses=_ERRORS)
async def overview(
    request: Request, services: WithServices, query: Annotated[OverviewQuery, Query()]
) -> Overview:
    """One look at the server, its tasks, how they overlap, and what happened last."""
    caller = record_of(request.scope).caller
    sought = query.search.casefold()
    seen: dict[str, str | None] = {}  # task -> what it serves
    records = {}
    found: list[tuple[Rank, TaskStatus]] = []
    async for status in _visible(services, caller):
        seen[status.task_id] = status.version
        if (record := record_of_run(status)) is not None:
            records[status.task_id] = record
        if sought in status.task_id.casefold():
            found.append((_rank(query.sort, status, services.metrics.trends), status))
    chosen = ordered(found, descending=query.order == "descending")
    shown = chosen[query.offset : query.offset + query.limit]
    return Overview(
        server=_strip(services, caller),
        total=len(seen),
        found=len(found),
        offset=query.offset,
        trend_seconds=CELL_SECONDS,
        tasks=[_line(status, services.metrics.trends) for status in shown],
        overlap=overlap_map(services.residency.compared, seen),
        runs=continual_runs(records, None if caller.tasks is None else seen),
        events=[_event(event) for event in _events(services, caller)],
    )


async def _visible(services: Services, caller: Caller) -> AsyncIterator[TaskStatus]:
    """Of all tasks those that the caller may see, sorted; other work gets its turns in between."""
    for number, status in enumerate(services.residency.each_status(), start=1):
        if caller.may_see(status.task_id):
            yield status
        if number % STATUSES_A_TURN == 0:
            await asyncio.sleep(0)


def ordered(found: Sequence[tuple[Rank, TaskStatus]], *, descending: bool) -> list[TaskStatus]:
    """By rank, either way round; equals stay as they are, and those without a rank come last."""
    known: list[tuple[Any, TaskStatus]] = [each for each in found if each[0] is not None]
    known.sort(key=lambda each: each[0], reverse=descending)
    return [status for _, status in known] + [status for rank, status in found if rank is None]


def _rank(key: SortKey, status: TaskStatus, trends: Trends) -> Rank:
    match key:
        case "task_id":
            return status.task_id
        case "state":
            is_behind = status.degraded and status.state.value == "READY"
            return 0.5 if is_behind else _STATES.index(status.state.value)
        case "requests":
            return trends.sum_of(status.task_id).requests
        case "p95":
            return trends.p95(status.task_id)
        case "failed":
            return trends.sum_of(status.task_id).failed
        case "memory":
            return status.bytes_host + status.bytes_device
        case "density":
            return status.density if status.nonzeros else None
        case "accuracy":
            return None if (score := score_of(status.manifest)) is None else score[1]
        case "canaries":
            return status.canary_accuracy


def _line(status: TaskStatus, trends: Trends) -> TaskLine:
    manifest, failure = status.manifest, status.failure
    score = score_of(manifest)
    trend = trends.trend(status.task_id) or Trend((), ())
    return TaskLine(
        task_id=status.task_id,
        version=status.version,
        desired=status.desired,
        state=status.state.value,
        degraded=None if failure is None else failure.message[:MAX_REASON],
        kind=None if manifest is None else manifest.kind,
        density=status.density,
        ancestors=0 if manifest is None else len(manifest.lineage),
        memory=status.bytes_host + status.bytes_device,
        pinned=status.pinned,
        in_flight=status.in_flight,
        requests_per_second=list(trend.per_second),
        p95_seconds=list(trend.p95),
        p95=trends.p95(status.task_id),
        failed=trends.sum_of(status.task_id).failed,
        accuracy=None if score is None else Accuracy(score=score[0], share=score[1]),
        canaries=status.canary_accuracy,
    )


def _strip(services: Services, caller: Caller) -> Strip:
    settings, limits, load = services.settings, services.limits, services.loop.load
    why_not = why_no_change(services, caller)
    budget = services.residency.budget_bytes
    default = settings.default_task
    checks = ready_checks(services)
    return Strip(
        version=VERSION,
        backbone=services.served_name,
        dtype=settings.dtype,
        device=settings.device,
        kernels=services.hardware.kernels,
        ready=all(check == "ok" for check in checks.values()),
        faults=_faults(checks, remarks(services), caller),
        rows_in_use=load.rows,
        rows_total=limits.max_rows,
        waiting=load.waiting,
        memory_used=budget - services.residency.free_bytes,
        memory_budget=budget,
        backbone_memory=services.hardware.weight_bytes,
        uptime_seconds=services.clock() - services.began,
        base=settings.base_name if settings.allow_base == "yes" else None,
        default_task=default if default and _may_name(services, caller, default) else None,
        max_input_tokens=limits.max_source_tokens,
        max_new_tokens=limits.max_target_tokens,
        may_change=why_not is None,
        why_not=why_not,
    )


def why_no_change(services: Services, caller: Caller) -> str | None:
    """Why this caller may not change adapters; None where it may."""
    if not services.settings.admin_keys:
        return CHANGES_ARE_OFF
    return None if "admin" in caller.scopes else ADMIN_KEY_NEEDED


def _faults(
    checks: Mapping[str, str], remarks: Mapping[str, str], caller: Caller
) -> dict[str, str]:
    """What is wrong, by check. A key of some tasks does not read texts that name others."""
    bad = {name: text for name, text in checks.items() if text != "ok"}
    found = {**remarks, **bad}
    return found if caller.tasks is None else dict.fromkeys(found, "not ok: ask its operator")


def _may_name(services: Services, caller: Caller, spec: str) -> bool:
    task = spec.partition("@")[0]
    return caller.may_see(task) or task in (services.settings.base_name, services.served_name)


def _events(services: Services, caller: Caller) -> list[Event]:
    visible = (e for e in services.events.newest() if e.task is None or caller.may_see(e.task))
    return [event for event, _ in zip(visible, range(MAX_EVENTS), strict=False)]


def _event(event: Event) -> EventLine:
    return EventLine(
        at=datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds"),
        kind=event.kind,
        task_id=event.task,
        version=event.version,
        text=event.text,
    )
