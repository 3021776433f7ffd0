"""The routes of adapters: list, look, publish, remove, go back, load, pin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from jumplora_adapters.errors import AdapterError, FormatError, HasDescendants
from jumplora_adapters.format import read_manifest
from jumplora_adapters.store import Published, Store
from jumplora_server.api.adapter_status import (
    AdapterDetail,
    AdapterList,
    PutResult,
    Removed,
    detail,
    summary,
)
from jumplora_server.api.errors import as_server_error
from jumplora_server.api.health import WithServices
from jumplora_server.api.record import record_of
from jumplora_server.api.schemas import ErrorBody, PinRequest, RollbackRequest
from jumplora_server.api.task_spec import check_task
from jumplora_server.api.uploads import Upload, received
from jumplora_server.errors import (
    AdapterRefused,
    AdapterUnavailable,
    InvalidInput,
    OutOfMemoryBudget,
    ServerError,
)
from jumplora_server.residency.status import State, TaskStatus
from jumplora_server.services import Services

TaskPath = Annotated[str, Path(description="the task")]
# Failures of a load that are the file's fault, whoever loads it: as what an upload is refused.
_FAULTS_OF_A_FILE: Mapping[str, type[ServerError]] = {
    "nonfinite": AdapterRefused,
    "canary": AdapterRefused,
    "memory_budget": OutOfMemoryBudget,
}
_log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/adapters", tags=["adapters"])
_READ: dict[int | str, dict[str, Any]] = {s: {"model": ErrorBody} for s in (401, 404, 422)}
_WRITE: dict[int | str, dict[str, Any]] = {
    s: {"model": ErrorBody} for s in (401, 403, 404, 409, 412, 413, 422, 503, 507)
}
_FILE_BODY = {
    "requestBody": {
        "required": True,
        "description": "the adapter file, as FORMAT.md specifies it",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get("", response_model=AdapterList, responses=_READ)
async def list_adapters(services: WithServices) -> AdapterList:
    """All registered tasks, sorted."""
    statuses = await run_in_threadpool(services.residency.statuses)
    return AdapterList(adapters=[summary(status) for status in statuses])


@router.post("/{task_id:path}/rollback", response_model=AdapterDetail, responses=_WRITE)
async def rollback(
    request: Request,
    services: WithServices,
    task_id: TaskPath,
    response: Response,
    body: RollbackRequest | None = None,
) -> AdapterDetail:
    """Make the version before the current one, or the given one, current again."""
    _note(request, check_task(task_id))
    target = None if body is None else body.version
    digest = await run_in_threadpool(_roll_back, services, task_id, target)
    status = await _settled(services, services.residency.sync(task_id))
    _require_served(status, digest)
    return _told(status, response)


@router.post("/{task_id:path}/load", response_model=AdapterDetail, responses=_WRITE)
async def load(
    request: Request, services: WithServices, task_id: TaskPath, response: Response
) -> AdapterDetail:
    """Make the adapter resident now; a version that failed is tried again."""
    _note(request, check_task(task_id))
    status = await _settled(services, services.residency.load(task_id))
    _require_served(status, status.desired)
    return _told(status, response)


@router.post("/{task_id:path}/pin", response_model=AdapterDetail, responses=_WRITE)
async def pin(
    request: Request,
    services: WithServices,
    task_id: TaskPath,
    response: Response,
    body: PinRequest | None = None,
) -> AdapterDetail:
    """Keep the adapter in memory, or no longer."""
    _note(request, check_task(task_id))
    services.residency.pin(task_id, (body or PinRequest()).pinned)
    return _told(services.residency.status(task_id), response)


@router.get("/{task_id:path}", response_model=AdapterDetail, responses=_READ)
async def get_adapter(
    request: Request, services: WithServices, task_id: TaskPath, response: Response
) -> AdapterDetail:
    """One task: what answers, what is desired, its manifest and versions. ETag: the desired one."""
    _note(request, check_task(task_id))
    return _told(await run_in_threadpool(services.residency.status, task_id), response)


@router.put(
    "/{task_id:path}",
    response_model=PutResult,
    status_code=201,
    responses={200: {"model": PutResult, "description": "The version was known"}, **_WRITE},
    openapi_extra=_FILE_BODY,
)
async def put_adapter(
    request: Request,
    services: WithServices,
    task_id: TaskPath,
    response: Response,
    if_match: Annotated[str | None, Header(description="the version to replace")] = None,
) -> PutResult:
    """Publish a file. Answers 201 once the version is READY and answers requests.

    A file that is refused leaves nothing behind. The current version is a no-op (200), an older one
    becomes current again (200).
    """
    _note(request, check_task(task_id))
    if task_id == services.settings.base_name:
        raise InvalidInput(f"task id {task_id!r} means the bare backbone here", reason="task_id")
    limit = services.settings.max_adapter_bytes
    try:
        async with received(request, services.store.root, limit) as upload:
            etag = _etag_of(if_match)
            published = await run_in_threadpool(_publish, services, task_id, upload, etag)
    except AdapterRefused as refused:
        services.metrics.adapter_load_failed(task_id, refused.reason or refused.code)
        raise
    status = await _settled(services, services.residency.sync(task_id))
    refusal = _refusal(status, published)
    if refusal is not None and await _taken_back(services, published):
        raise refusal
    _require_served(status, published.digest)
    told = _told(status, response)
    response.status_code = 201 if published.outcome == "created" else 200
    response.headers["location"] = f"/v1/adapters/{task_id}"
    return PutResult(**dict(told), outcome=published.outcome)


@router.delete("/{task_id:path}", response_model=Removed, responses=_WRITE)
async def delete_adapter(request: Request, services: WithServices, task_id: TaskPath) -> Removed:
    """Remove a task with all its versions. Running requests end on the version they began with."""
    _note(request, check_task(task_id))
    await run_in_threadpool(services.store.remove, task_id)
    await run_in_threadpool(services.residency.forget, task_id)
    return Removed(task_id=task_id)


def _publish(services: Services, task: str, upload: Upload, if_match: str | None) -> Published:
    """On a worker thread. The store validates the whole file before anything becomes visible."""
    try:
        manifest = read_manifest(upload.path, max_file_bytes=services.settings.max_adapter_bytes)
        if manifest.task != task:
            raise FormatError(
                f"the manifest's task is {manifest.task!r}, the path's is {task!r}",
                code="manifest",
            )
        return services.store.publish(
            upload.path, services.backbone, expect_task=task, if_match=if_match
        )
    except AdapterError as error:
        raise as_server_error(error) from error


def _refusal(status: TaskStatus, published: Published) -> ServerError | None:
    """What to answer when a new file was found to be of no use only by loading it."""
    failure = status.failure
    if published.outcome != "created" or status.desired != published.digest or failure is None:
        return None
    kind = _FAULTS_OF_A_FILE.get(failure.code)
    if kind is None:
        return None
    message = f"version {published.digest} does not load: {failure.message}; it was taken back"
    return kind(message, reason=failure.code)


async def _taken_back(services: Services, published: Published) -> bool:
    """Undo a publish. False when the store does not allow that, or it is somebody else's by now."""
    task = published.task
    try:
        left = await run_in_threadpool(_unpublish, services.store, task, published.digest)
    except AdapterError as error:
        _log.warning("version %s of task %s stays: %s", published.digest[:12], task, error)
        return False
    if left == "nothing":
        await run_in_threadpool(services.residency.forget, task)
        return True
    try:
        await _settled(services, services.residency.sync(task))
    except ServerError as error:  # the refusal matters more to who published
        _log.warning("task %s is not settled after a refusal: %s", task, error.message)
    return True


def _unpublish(store: Store, task: str, digest: str) -> Literal["older", "nothing"]:
    if store.current(task) == digest:
        if store.versions(task) == (digest,):
            store.remove(task)
            return "nothing"
        store.rollback(task)
    try:
        store.remove_version(task, digest)
    except HasDescendants as error:
        _log.warning("refused version %s of task %s is kept: %s", digest[:12], task, error)
    return "older"


def _roll_back(services: Services, task: str, version: str | None) -> str:
    to = None if version is None else services.store.resolve(f"{task}@{version}")[1]
    return services.store.rollback(task, to)


async def _settled(services: Services, future: Future[TaskStatus]) -> TaskStatus:
    seconds = services.settings.load_timeout
    try:
        # Shielded: whoever else waits for the same load still gets it.
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), seconds)
    except TimeoutError as error:
        raise AdapterUnavailable(
            f"the adapter was not loaded within {seconds:.0f} s; it goes on, see GET",
            reason="loading",
            retry_after=5.0,
        ) from error


def _require_served(status: TaskStatus, digest: str | None) -> None:
    """Nothing to say when a newer publish overtook this one."""
    if status.desired != digest or (status.version == digest and status.state is State.READY):
        return
    failure = status.failure
    reason = failure.code if failure is not None else "loading"
    why = failure.message if failure is not None else f"its state is {status.state.value}"
    serving = f"version {status.version} goes on serving" if status.version else "nothing serves"
    raise AdapterUnavailable(
        f"version {digest} of task {status.task_id!r} is published but could not be loaded: {why};"
        f" {serving}",
        reason=reason,
    )


def _told(status: TaskStatus, response: Response) -> AdapterDetail:
    if status.desired is not None:
        response.headers["etag"] = f'"{status.desired}"'
    if status.version is not None:
        response.headers["x-adapter-version"] = status.version
    return detail(status)


def _etag_of(if_match: str | None) -> str | None:
    if if_match is None or if_match.strip() == "*":
        return None
    return if_match.strip().removeprefix("W/").strip('"')


def _note(request: Request, task: str) -> None:
    record_of(request.scope).task = task
