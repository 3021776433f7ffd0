"""TGI's dialect, and LoRAX's: what `/`, `/generate` and `/generate_stream` take and answer.

The first dialect, and the one to copy: schemas (here those of `schemas`), `to_ask`, how answers and
errors are written (here `tgi_writer`), the routes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from jumplora_server.access.caller import Caller
from jumplora_server.api.answering import EventStream, answer, stream
from jumplora_server.api.ask import Ask, FieldNames, record_of
from jumplora_server.api.dialect import Dialect
from jumplora_server.api.errors import PLAIN
from jumplora_server.api.health import WithServices
from jumplora_server.api.parameters import asked_parameters, choices_asked
from jumplora_server.api.route import TASK_HEADER, DialectRoute
from jumplora_server.api.schemas import ErrorBody, GenerateRequest, GenerateResponse, StreamEvent
from jumplora_server.api.task_names import (
    HEADER,
    NONE_YET,
    TaskHeader,
    agreed_name,
    check_spec,
    default_task,
    has_tasks,
)
from jumplora_server.api.tgi_writer import COMPATIBLE, TgiWriter
from jumplora_server.core import Wanted
from jumplora_server.errors import InvalidInput, UnknownTask, UnknownVersion
from jumplora_server.services import Services


def to_ask(
    caller: Caller, body: GenerateRequest, task: str | None, *, is_streamed: bool = False
) -> Ask:
    """What a request wants. Raises InvalidInput for a stream of several prompts."""
    if is_streamed and body.shape == "list":
        raise InvalidInput("a stream answers one prompt; give a string, or do not ask for a stream")
    parameters = body.parameters
    # Tokens are shown with the details only; without, the engine thread has less to tell. Clients
    # of TGI require the log-probabilities of a stream.
    shows_tokens = is_streamed or bool(parameters.details)
    wants: Wanted = "tokens" if shows_tokens else "end"
    timeout = parameters.timeout_ms
    return Ask(
        caller=caller,
        task=task,
        prompts=body.prompts,
        form="prompts" if body.text is None else "texts",
        shape=body.shape,
        wants=wants,
        names=FieldNames("inputs" if body.text is None else "text", prefix="parameters."),
        parameters=asked_parameters(parameters),
        logprobs="chosen" if shows_tokens else "none",
        streamed="one" if is_streamed else "no",
        choices=choices_asked(parameters),
        truncate=parameters.truncate,
        timeout_seconds=None if timeout is None else timeout / 1000,
    )


_NO_TASK = (
    'task_id: is missing; name a task, as in {"task_id": "agnews", ...}, '
    f"or send the header {TASK_HEADER}; for clients that can do neither, start the server "
    "with JUMPLORA_DEFAULT_TASK"
)


def _given_names(
    body: GenerateRequest, path: str | None, header: str | None
) -> dict[str, str | None]:
    """Each place that names a task, or says by a null that it wants none."""
    given: dict[str, str | None] = {}
    if path is not None:
        given["the path"] = path
    if header is not None:
        given[HEADER] = header
    for name in ("task_id", "adapter_id", "model"):
        if name in body.model_fields_set:
            given[name] = getattr(body, name)
    if body.parameters.adapter_id is not None:
        given["parameters.adapter_id"] = body.parameters.adapter_id
    return given


def named_task(
    body: GenerateRequest,
    *,
    path: str | None = None,
    header: str | None = None,
    default: str | None = None,
    has_tasks: Callable[[], bool] = lambda: True,
) -> str | None:
    """The task spec of a request; None where a null was given everywhere (the bare backbone).

    Raises InvalidInput when no place names a task and there is no default, or two places disagree.
    """
    given = _given_names(body, path, header)
    if not given and default is None and "adapter_id" in body.parameters.model_fields_set:
        return None  # LoRAX's client always sends that null, also when another place names a task
    missing = _NO_TASK if given or has_tasks() else f"task_id: is missing, and {NONE_YET}"
    spec = agreed_name(given, default, missing)
    return spec if spec is None else check_spec(spec)


class TgiRoute(DialectRoute):
    """What a TGI client calls."""

    dialect = PLAIN
    body = GenerateRequest


class CompatibleRoute(DialectRoute):
    """What clients call that know the server's address alone."""

    dialect = COMPATIBLE
    body = GenerateRequest


async def _respond(
    request: Request,
    services: Services,
    body: GenerateRequest,
    *,
    path: str | None = None,
    header: str | None,
    is_streamed: bool,
    dialect: Dialect = PLAIN,
) -> Response:
    """The answer, in one body or in events."""
    caller = record_of(request.scope).caller
    task = named_task(
        body,
        path=path,
        header=header,
        default=default_task(services, caller),
        has_tasks=lambda: has_tasks(services, caller),
    )
    ask = to_ask(caller, body, task, is_streamed=is_streamed)
    writer = TgiWriter(ask, dialect)
    try:
        return await (stream if is_streamed else answer)(request, services, ask, writer)
    except (UnknownTask, UnknownVersion) as error:
        if _given_names(body, path, header):
            raise
        raise type(error)(
            f"{error.message}; the request names no task, so JUMPLORA_DEFAULT_TASK did",
            reason=error.reason,
        ) from error


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (401, 403, 404, 413, 422, 429, 500, 503, 504)
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the answer; with `stream` a StreamEvent for each token",
        "content": {EventStream.media_type: {"schema": {"type": "string"}}},
    },
    **_ERRORS,
}
_STREAM_ERRORS: dict[int | str, dict[str, Any]] = {
    # By reference: these are JSON although what the route promises is a stream of events.
    status: {
        "description": "refused before the first token",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
    }
    for status in _ERRORS
}
_ANSWER = GenerateResponse | list[GenerateResponse]

TaskPath = Annotated[str, Path(description='"task" or "task@version"')]

router = APIRouter(tags=["generate"], route_class=TgiRoute)
compatible = APIRouter(tags=["generate"], route_class=CompatibleRoute)


@compatible.post("/", response_model=list[GenerateResponse], responses=_ANSWERS)
async def generate_compatibly(
    request: Request, services: WithServices, body: GenerateRequest, x_task_id: TaskHeader = None
) -> Response:
    """As /generate, for clients of TGI and LoRAX: one prompt is answered with a list of one."""
    return await _respond(
        request,
        services,
        body,
        header=x_task_id,
        is_streamed=bool(body.stream),
        dialect=COMPATIBLE,
    )


@router.post("/generate", response_model=_ANSWER, responses=_ANSWERS)
async def generate(
    request: Request, services: WithServices, body: GenerateRequest, x_task_id: TaskHeader = None
) -> Response:
    """Answer one prompt with an object, a list of prompts with a list.

    Repeating a request is safe: generation changes nothing.
    """
    return await _respond(request, services, body, header=x_task_id, is_streamed=bool(body.stream))


@router.post("/v1/tasks/{task_id:path}/generate", response_model=_ANSWER, responses=_ANSWERS)
async def generate_for_task(
    request: Request,
    services: WithServices,
    task_id: TaskPath,
    body: GenerateRequest,
    x_task_id: TaskHeader = None,
) -> Response:
    """The same with the task in the path, where proxies can hash on it."""
    is_streamed = bool(body.stream)
    return await _respond(
        request, services, body, path=task_id, header=x_task_id, is_streamed=is_streamed
    )


@router.post(
    "/generate_stream",
    response_model=StreamEvent,
    response_class=EventStream,
    status_code=200,
    responses=_STREAM_ERRORS,
)
async def generate_stream(
    request: Request, services: WithServices, body: GenerateRequest, x_task_id: TaskHeader = None
) -> Response:
    """Answer one prompt token by token. Errors before the first token have their status."""
    _check_streams(body)
    return await _respond(request, services, body, header=x_task_id, is_streamed=True)


@router.post(
    "/v1/tasks/{task_id:path}/generate_stream",
    response_model=StreamEvent,
    response_class=EventStream,
    status_code=200,
    responses=_STREAM_ERRORS,
)
async def generate_stream_for_task(
    request: Request,
    services: WithServices,
    task_id: TaskPath,
    body: GenerateRequest,
    x_task_id: TaskHeader = None,
) -> Response:
    """The same with the task in the path."""
    _check_streams(body)
    return await _respond(request, services, body, path=task_id, header=x_task_id, is_streamed=True)


def _check_streams(body: GenerateRequest) -> None:
    if body.stream is False:
        raise InvalidInput("stream: this route always streams; send true, or call .../generate")
