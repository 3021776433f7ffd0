"""`GET /v1/overview`: what the console shows.

It is asked every few seconds, so ten thousand tasks must cost little: what is known of a task is
put together for the lines that are shown, and otherwise only what the order needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from jumplora_server.access.caller import Caller
from jumplora_server.access.gate import ADMIN_KEY_NEEDED, CHANGES_ARE_OFF, in_order
from jumplora_server.api.ask import record_of
from jumplora_server.api.health import WithServices, details, ready_checks, remarks
from jumplora_server.api.overview_maps import continual_runs, overlap_map, record_of_run
from jumplora_server.api.overview_schemas import (
    MAX_EVENTS,
    Accuracy,
    EventLine,
    Overview,
    OverviewQuery,
    StagedMark,
    Strip,
    TaskLine,
)
from jumplora_server.api.schemas import ErrorBody
from jumplora_server.api.sight import base_of, text_for
from jumplora_server.api.task_names import default_task, visible_tasks
from jumplora_server.api.turns import in_turns
from jumplora_server.events import Event
from jumplora_server.metrics.trends import CELL_SECONDS, Trends
from jumplora_server.residency.entries import State
from jumplora_server.residency.quality import score_of
from jumplora_server.residency.status import StagedStatus, TaskStatus
from jumplora_server.services import Services
from jumplora_server.version import VERSION

router = APIRouter(prefix="/v1", tags=["server"])
MAX_REASON = 400  # characters of why a task is degraded
# What needs a look comes first.
_STATES = (State.FAILED, State.LOADING, State.DRAINING, State.COLD, State.READY)
_ERRORS: dict[int | str, dict[str, Any]] = {s: {"model": ErrorBody} for s in (401, 422)}


@router.get("/overview", response_model=Overview, responses=_ERRORS)
async def get_overview(
    request: Request, services: WithServices, query: Annotated[OverviewQuery, Query()]
) -> Response:
    """One look at the server, its tasks, how they overlap, and what happened last."""
    caller = record_of(request.scope).caller
    routes = services.residency.routes
    tasks = visible_tasks(routes, caller)
    await asyncio.sleep(0)
    sought = query.search.casefold()
    found = [task for task in tasks if sought in task.casefold()] if sought else tasks
    await asyncio.sleep(0)
    chosen = await _ordered(services, found, query)
    shown = chosen[query.offset : query.offset + query.limit]
    trends = services.metrics.trends
    statuses = services.residency.each_status(shown)
    lines = await in_turns(_line(caller, each, trends).model_dump_json() for each in statuses)
    records = await in_turns((task, record_of_run(routes[task])) for task in tasks)
    runs = continual_runs({task: record for task, record in records if record}, caller.may_see)
    told_runs = await in_turns(run.model_dump_json() for run in runs)
    rest = Overview(
        server=_strip(services, caller, has_key="authorization" in request.headers),
        total=len(tasks),
        found=len(found),
        offset=query.offset,
        trend_seconds=CELL_SECONDS,
        tasks=[],
        overlap=overlap_map(services.residency.compared, routes, caller.may_see),
        runs=[],
        events=[_event(caller, event) for event in _events(services, caller)],
    )
    # Written here and in turns: the framework would check each number of it once more.
    others = rest.model_dump_json(exclude={"tasks", "runs"}).removesuffix("}")
    content = f'{others},"tasks":[{",".join(lines)}],"runs":[{",".join(told_runs)}]}}'
    return Response(content, media_type="application/json")


async def _ordered(services: Services, tasks: Sequence[str], query: OverviewQuery) -> list[str]:
    """The tasks, which are sorted by id, by what the query says."""
    key, trends = query.sort, services.metrics.trends
    is_descending = query.order == "descending"
    match key:
        case "task_id":
            return [*reversed(tasks)] if is_descending else [*tasks]
        case "requests" | "failed" | "p95":
            ranks = await in_turns((_trend_rank(key, task, trends), task) for task in tasks)
        case _:
            statuses = services.residency.each_status(tasks)
            ranks = await in_turns((_status_rank(key, each), each.task_id) for each in statuses)
    return by_rank(ranks, descending=is_descending)


def by_rank(ranks: Sequence[tuple[float | None, str]], *, descending: bool) -> list[str]:
    """Either way round; equals stay in their order, and what has no rank comes last."""
    known = [(rank, task) for rank, task in ranks if rank is not None]
    known.sort(key=lambda each: each[0], reverse=descending)
    return [task for _, task in known] + [task for rank, task in ranks if rank is None]


def _trend_rank(
    key: Literal["requests", "failed", "p95"], task: str, trends: Trends
) -> float | None:
    if key == "p95":
        return trends.p95(task)
    total = trends.sum_of(task)
    return total.requests if key == "requests" else total.failed


def _status_rank(
    key: Literal["state", "memory", "density", "accuracy", "canaries"], status: TaskStatus
) -> float | None:
    match key:
        case "state":
            is_behind = status.degraded and status.state is State.READY
            return _STATES.index(State.FAILED) + 0.5 if is_behind else _STATES.index(status.state)
        case "memory":
            return status.bytes_host + status.bytes_device
        case "density":
            return status.density if status.nonzeros else None
        case "accuracy":
            return None if (score := score_of(status.manifest)) is None else score[1]
        case "canaries":
            return status.canary_accuracy


def _line(caller: Caller, status: TaskStatus, trends: Trends) -> TaskLine:
    manifest, failure = status.manifest, status.failure
    score = score_of(manifest)
    trend = trends.look(status.task_id)
    return TaskLine(
        task_id=status.task_id,
        version=status.version,
        desired=status.desired,
        state=status.state.value,
        degraded=None if failure is None else text_for(caller, failure)[:MAX_REASON],
        kind=None if manifest is None else manifest.kind,
        density=status.density,
        ancestors=0 if manifest is None else len(manifest.lineage),
        memory=status.bytes_host + status.bytes_device,
        pinned=status.pinned,
        in_flight=status.in_flight,
        requests_per_second=list(trend.per_second),
        requests=trend.requests,
        p95_seconds=list(trend.p95_each),
        p95=trend.p95,
        failed=trend.failed,
        accuracy=None if score is None else Accuracy(score=score[0], share=score[1]),
        canaries=status.canary_accuracy,
        canaries_asked=len(status.replies),
        staged=None if status.staged is None else _mark(status.staged),
    )


def _mark(status: StagedStatus) -> StagedMark:
    return StagedMark(
        version=status.version,
        share=status.staged.share,
        is_open=status.is_open,
        failure=None if status.failure is None else status.failure.code,
    )


def _strip(services: Services, caller: Caller, *, has_key: bool) -> Strip:
    settings, limits, load = services.settings, services.limits, services.loop.load
    why_not = why_no_change(services, caller)
    checks = ready_checks(services)
    return Strip(
        version=VERSION,
        backbone=services.served_name,
        dtype=settings.dtype,
        device=settings.device,
        kernels=services.hardware.kernels,
        ready=all(check == "ok" for check in checks.values()),
        faults=_faults(services, checks, caller),
        rows_in_use=load.rows,
        rows_total=limits.max_rows,
        waiting=load.waiting,
        memory_used=services.residency.used_bytes,
        memory_budget=services.residency.budget_bytes,
        backbone_memory=services.hardware.weight_bytes,
        uptime_seconds=services.clock() - services.began,
        base=base_of(settings, caller),
        default_task=default_task(services, caller),
        max_input_tokens=limits.max_source_tokens,
        max_new_tokens=limits.max_target_tokens,
        keys=_kinds_of_keys(services),
        key=_key(caller, has_key=has_key),
        key_id=caller.key_id,
        key_scopes=in_order(caller.scopes),
        key_tasks=None if caller.tasks is None else list(caller.tasks.patterns),
        may_change=why_not is None,
        why_not=why_not,
    )


def _kinds_of_keys(services: Services) -> list[Literal["api", "admin"]]:
    keyring = services.keys.keyring
    kinds: tuple[Literal["api", "admin"], ...] = ("api", "admin")
    return [
        kind for kind in kinds if (keyring.has("admin") if kind == "admin" else not keyring.is_open)
    ]


def _key(caller: Caller, *, has_key: bool) -> Literal["none", "unknown", "api", "admin"]:
    if "admin" in caller.scopes:
        return "admin"
    if caller.scopes:
        return "api"
    return "unknown" if has_key else "none"


def why_no_change(services: Services, caller: Caller) -> str | None:
    """Why this caller may not change adapters; None where it may."""
    if not services.keys.keyring.has("admin"):
        return CHANGES_ARE_OFF
    return None if "admin" in caller.scopes else ADMIN_KEY_NEEDED


def _faults(services: Services, checks: Mapping[str, str], caller: Caller) -> dict[str, str]:
    """What is wrong, by check, with all that is known of it where the caller may read that."""
    bad = {name: text for name, text in checks.items() if text != "ok"}
    found = remarks(services) | bad
    if not _reads_server_texts(caller):
        return found
    return found | {name: text for name, text in details(services).items() if name in found}


def _reads_server_texts(caller: Caller) -> bool:
    """A key of some tasks does not: they may name other tasks, and folders."""
    return caller.tasks is None


def _events(services: Services, caller: Caller) -> list[Event]:
    visible = (
        event
        for event in services.events.newest()
        if (_reads_server_texts(caller) if event.task is None else caller.may_see(event.task))
    )
    return [*islice(visible, MAX_EVENTS)]


def _event(caller: Caller, event: Event) -> EventLine:
    is_narrow = caller.tasks is not None and event.narrow is not None
    return EventLine(
        at=datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds"),
        kind=event.kind,
        task_id=event.task,
        version=event.version,
        text=event.narrow if is_narrow else event.text,
    )
