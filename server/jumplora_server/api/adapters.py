"""The routes of adapters: list, look, publish, stage, name, remove, go back, load, pin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response

from jumplora_adapters.errors import AdapterError
from jumplora_server.api.adapter_schemas import (
    AdapterDetail,
    AdapterList,
    Comparison,
    MadeOf,
    PutResult,
    Removed,
)
from jumplora_server.api.adapter_status import detail, figures, summary
from jumplora_server.api.ask import record_of
from jumplora_server.api.audit import Change, begin_change
from jumplora_server.api.errors import as_server_error
from jumplora_server.api.health import WithServices, remarks
from jumplora_server.api.route import JsonRoute
from jumplora_server.api.schemas import (
    AliasRequest,
    ErrorBody,
    PinRequest,
    PromoteRequest,
    RollbackRequest,
    StageRequest,
    UnstageRequest,
)
from jumplora_server.api.task_names import named_task, visible_tasks
from jumplora_server.api.turns import in_turns
from jumplora_server.api.uploads import ARCHIVE_TYPES, received
from jumplora_server.errors import (
    AdapterRefused,
    AdapterUnavailable,
    InvalidInput,
    ServerError,
    StoreBusy,
)
from jumplora_server.residency.outcome import require_served
from jumplora_server.residency.status import TaskStatus
from jumplora_server.services import Services
from jumplora_server.staged.stages import Wish

TaskPath = Annotated[str, Path(description="the task")]
router = APIRouter(prefix="/v1/adapters", tags=["adapters"], route_class=JsonRoute)
_READ: dict[int | str, dict[str, Any]] = {s: {"model": ErrorBody} for s in (401, 404, 422)}
_WRITE: dict[int | str, dict[str, Any]] = {
    s: {"model": ErrorBody} for s in (401, 403, 404, 409, 412, 413, 422, 503, 507)
}
_FILE_BODY = {
    "requestBody": {
        "required": True,
        "description": (
            "the adapter file, as FORMAT.md specifies it; or a zip, tar or tar.gz of a PEFT folder "
            "(adapter_config.json and adapter_model.safetensors, at the root or in one folder), of "
            "which the server makes an adapter. The bytes say which of them it is; a content-type "
            "that says otherwise is refused"
        ),
        "content": {
            media_type: {"schema": {"type": "string", "format": "binary"}}
            for media_type in ("application/octet-stream", *ARCHIVE_TYPES)
        },
    }
}


@router.get("", response_model=AdapterList, responses=_READ)
async def list_adapters(request: Request, services: WithServices) -> Response:
    """All registered tasks that the key may see, sorted."""
    caller = record_of(request.scope).caller
    tasks = visible_tasks(services.residency.routes, caller)
    statuses = services.residency.each_status(tasks)
    lines = await in_turns(summary(caller, status).model_dump_json() for status in statuses)
    content = f'{{"adapters":[{",".join(lines)}]}}'
    return Response(content, media_type="application/json")


@router.post("/{task_id:path}/rollback", response_model=AdapterDetail, responses=_WRITE)
async def roll_back_adapter(
    request: Request,
    services: WithServices,
    task_id: TaskPath,
    response: Response,
    body: RollbackRequest | None = None,
) -> AdapterDetail:
    """Make the version before the current one, or the given one, current again."""
    change = begin_change(request, services, task_id)
    target = None if body is None else body.version
    status = await services.publishing.roll_back(task_id, target, witness=change)
    return await _told(request, services, status, response)


@router.post("/{task_id:path}/stage", response_model=AdapterDetail, responses=_WRITE)
async def stage_adapter(
    request: Request,
    services: WithServices,
    task_id: TaskPath,
    response: Response,
    body: StageRequest,
) -> AdapterDetail:
    """Give a stored version a share of the task's requests, beside the current one, or change the
    share. Answers once it was loaded and tried; one that does not pass is taken back."""
    change = begin_change(request, services, task_id)
    wish = Wish(body.share, body.promote_after)
    status = await services.stages.stage(task_id, body.version, wish, change)
    return await _told(request, services, status, response)


@router.post("/{task_id:path}/promote", response_model=AdapterDetail, responses=_WRITE)
async def promote_adapter(
    request: Request,
    services: WithServices,
    task_id: TaskPath,
    response: Response,
    body: PromoteRequest | None = None,
) -> AdapterDetail:
    """Make the staged version current. Where another one is staged than is named: 412."""
    change = begin_change(request, services, task_id)
    version = None if body is None else body.version
    status = await services.stages.promote(task_id, version, change)
    return await _told(request, services, status, response)


@router.post("/{task_id:path}/unstage", response_model=AdapterDetail, responses=_WRITE)
async def unstage_adapter(
    request: Request,
    services: WithServices,
    task_id: TaskPath,
    response: Response,
    body: UnstageRequest | None = None,
) -> AdapterDetail:
    """Give the staged version no requests any more; it stays in the store. As `promote`, 412."""
    change = begin_change(request, services, task_id)
    asked = body or UnstageRequest()
    status = await services.stages.unstage(task_id, asked.version, note=asked.note, witness=change)
    return await _told(request, services, status, response)


@router.post("/{task_id:path}/alias", response_model=AdapterDetail, responses=_WRITE)
async def alias_adapter(
    request: Request,
    services: WithServices,
    task_id: TaskPath,
    response: Response,
    body: AliasRequest,
) -> AdapterDetail:
    """Let requests name a version by a word: `task@champion`. Without a version, no longer."""
    change = begin_change(request, services, task_id)
    status = await services.stages.alias(task_id, body.name, body.version, change)
    return await _told(request, services, status, response)


@router.post("/{task_id:path}/load", response_model=AdapterDetail, responses=_WRITE)
async def load_adapter(
    request: Request, services: WithServices, task_id: TaskPath, response: Response
) -> AdapterDetail:
    """Make the adapter resident now; a version that failed is tried again."""
    change = begin_change(request, services, task_id)
    change.version = change.before
    status = await services.publishing.settled(task_id, services.residency.sync(task_id))
    require_served(status, status.desired)
    return await _told(request, services, status, response)


@router.post("/{task_id:path}/pin", response_model=AdapterDetail, responses=_WRITE)
async def pin_adapter(
    request: Request,
    services: WithServices,
    task_id: TaskPath,
    response: Response,
    body: PinRequest | None = None,
) -> AdapterDetail:
    """Keep the adapter in memory until the server restarts, or no longer.

    Answers once it was loaded or found no room: then its state is not READY and `failure` says why.
    It is pinned all the same, and loaded when there is room.
    """
    change = begin_change(request, services, task_id)
    change.version = change.before
    wish = (body or PinRequest()).pinned
    services.residency.pin(task_id, wish)
    if wish == "pinned":
        with suppress(AdapterUnavailable):  # its state in the answer says that it is not there yet
            await services.publishing.settled(task_id, services.residency.sync(task_id))
    return await _told(request, services, services.residency.status(task_id), response)


@router.get("/{task_id:path}", response_model=AdapterDetail, responses=_READ)
async def get_adapter(
    request: Request, services: WithServices, task_id: TaskPath, response: Response
) -> AdapterDetail:
    """One task: what answers, what is desired, its manifest and versions. ETag: the desired one."""
    named_task(request, task_id)
    return await _told(request, services, services.residency.status(task_id), response)


@router.put(
    "/{task_id:path}",
    response_model=PutResult,
    status_code=201,
    responses={200: {"model": PutResult, "description": "The version was known"}, **_WRITE},
    openapi_extra=_FILE_BODY,
)
async def publish_adapter(
    request: Request,
    services: WithServices,
    task_id: TaskPath,
    response: Response,
    if_match: Annotated[str | None, Header(description="the version to replace")] = None,
    if_none_match: Annotated[
        str | None, Header(description="*: only if the task has no version yet; nothing else")
    ] = None,
    stage: Annotated[
        float | None,
        Query(ge=0, le=1, description="stage it, with this share of the task's requests"),
    ] = None,
) -> PutResult:
    """Publish a file. Answers 201 once the version is READY and answers requests.

    A file that is refused leaves nothing behind. The current version is a no-op (200), an older one
    becomes current again (200). Of an archive of a PEFT folder an adapter is made for the server's
    backbone: `version` is its digest, and `made_from` says what it was made of. Equal folders of
    one name give equal versions.

    With `If-Match` the version that is current must be that one, and with `If-None-Match: *` there
    must be none, not an equal one either; else 412, and nothing is changed.

    With `stage` the current version stays, and this one gets a share of the task's requests once
    it was loaded and tried (201).
    """
    limit, replaced = services.settings.max_adapter_bytes, _etag_of(if_match)
    with publication(request, services, task_id) as change:
        only_new = _is_only_new(if_none_match, if_match)
        if stage is not None and only_new:
            raise InvalidInput("stage: a new task has no version to be staged beside; leave it out")
        async with received(request, services.publishing, limit) as incoming:
            if stage is not None:
                release = await services.stages.publish(
                    task_id, incoming, Wish(stage), replaced, witness=change
                )
            else:
                release = await services.publishing.publish(
                    task_id, incoming, replaced, only_new=only_new, witness=change
                )
    outcome = release.published.outcome
    told = await _told(request, services, release.status, response)
    response.status_code = 201 if outcome in ("created", "staged") else 200
    response.headers["location"] = f"/v1/adapters/{task_id}"
    made_from = None if release.made_from is None else MadeOf(**asdict(release.made_from))
    return PutResult(**dict(told), outcome=outcome, made_from=made_from)


@router.delete("/{task_id:path}", response_model=Removed, responses=_WRITE)
async def remove_adapter(request: Request, services: WithServices, task_id: TaskPath) -> Removed:
    """Remove a task with all its versions. Running requests end on the version they began with."""
    change = begin_change(request, services, task_id)
    await services.publishing.remove(task_id, witness=change)
    return Removed(task_id=task_id)


@contextmanager
def publication(request: Request, services: Services, task: str) -> Iterator[Change]:
    """The change that publishes `task`; one that is refused within this is counted. Raises
    InvalidInput where no adapter may have that task, and Forbidden where the key is not for it:
    that counts with the refused keys, and for no task."""
    before = task if services.residency.knows(task) else None
    try:
        change = begin_change(request, services, task)
        if task in services.backbone_names:
            raise InvalidInput(
                f"task id {task!r} means the bare backbone here; choose another one",
                reason="task_id",
            )
        yield change
    except AdapterError as error:
        answer = as_server_error(error)
        if isinstance(answer, AdapterRefused):
            services.metrics.adapter_load_failed(task, error.code)
        services.metrics.publish_refused(before, _refusal_code(answer))
        raise
    except ServerError as error:
        if record_of(request.scope).refused_for is None:
            services.metrics.publish_refused(before, _refusal_code(error))
        raise


def _refusal_code(error: ServerError) -> str:
    """What a refused publish counts as: the check that failed, where the error has one."""
    return error.code if isinstance(error, StoreBusy) else error.reason or error.code


async def _told(
    request: Request, services: Services, status: TaskStatus, response: Response
) -> AdapterDetail:
    if status.desired is not None:
        response.headers["etag"] = f'"{status.desired}"'
    if status.version is not None:
        response.headers["x-adapter-version"] = status.version
    changes, task = services.changes, status.task_id
    is_at_fault = "store" in remarks(services)
    known = changes.known(task) if is_at_fault else await changes.of(task)
    return detail(record_of(request.scope).caller, status, known, _comparison(services, status))


def _comparison(services: Services, status: TaskStatus) -> Comparison | None:
    staged = status.staged
    if staged is None:
        return None
    task, metrics = status.task_id, services.metrics
    looks = services.referee.looks(task)
    verdict: Literal["not_open", "too_few_requests", "no_fault"] = "not_open"
    if staged.is_open:
        verdict = "no_fault" if looks else "too_few_requests"
    return Comparison(
        staged=figures(metrics.counts_of(task, staged.version)),
        current=figures(metrics.counts_of(task, status.version or "")),
        looks=looks,
        verdict=verdict,
    )


def _etag_of(if_match: str | None) -> str | None:
    if if_match is None or if_match.strip() == "*":
        return None
    return if_match.strip().removeprefix("W/").strip('"')


def _is_only_new(if_none_match: str | None, if_match: str | None) -> bool:
    if if_none_match is None:
        return False
    if if_none_match.strip() != "*":
        raise InvalidInput(
            f"if-none-match: only * is read here, which publishes a task that has no version yet "
            f"(given: {if_none_match[:100]!a}); to replace one version, give it as if-match"
        )
    if if_match is not None:
        raise InvalidInput(
            "if-none-match and if-match: one asks for a new task and the other for a version to "
            "replace; give one of them"
        )
    return True
