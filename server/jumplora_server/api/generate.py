"""The routes that generate, in TGI's dialect: one answer, a list of answers, or a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request
from pydantic import TypeAdapter
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from jumplora_server.api import answers
from jumplora_server.api.admit import Admitted, admit
from jumplora_server.api.hang_up import HungUp, unless_hung_up
from jumplora_server.api.health import WithServices
from jumplora_server.api.record import record_of
from jumplora_server.api.schemas import ErrorBody, GenerateRequest, GenerateResponse, StreamEvent
from jumplora_server.api.stream import CancelCause, raise_unless_finished
from jumplora_server.api.task_spec import TASK_HEADER, named_task
from jumplora_server.core import TokenEvent
from jumplora_server.errors import InvalidInput, ServerError
from jumplora_server.services import Services

CLIENT_CLOSED_REQUEST = 499  # nginx' number; nobody is left to read it but the log
_LAST_RESORT_SECONDS = 2.0

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (401, 403, 404, 413, 422, 429, 500, 503, 504)
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
_ANSWERS: TypeAdapter[list[GenerateResponse]] = TypeAdapter(list[GenerateResponse])


class EventStream(StreamingResponse):
    """The server-sent events of one sequence; it is cancelled when the client goes away."""

    media_type = "text/event-stream"

    def __init__(
        self, admitted: Admitted, first: TokenEvent, rest: AsyncIterator[TokenEvent]
    ) -> None:
        headers = answers.identity_headers(admitted)
        # nginx would hold events back otherwise.
        headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
        self._admitted = admitted
        self._lines = _lines(admitted, first, rest)
        super().__init__(self._lines, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._admitted.cancel("client_disconnect")
            await self._lines.aclose()


async def _lines(
    admitted: Admitted, first: TokenEvent, rest: AsyncIterator[TokenEvent]
) -> AsyncGenerator[bytes]:
    yield answers.stream_event(admitted, 0, first)
    if first.finish is not None:
        return
    index = 0
    async for event in rest:
        index += 1
        if event.finish is not None:
            try:
                raise_unless_finished(event.finish)
            except ServerError as error:
                yield answers.error_event(error)
                return
        yield answers.stream_event(admitted, index, event)


TaskHeader = Annotated[
    str | None, Header(alias=TASK_HEADER, description="may carry the task id; must agree")
]
TaskPath = Annotated[str, Path(description='"task" or "task@version"')]
router = APIRouter(tags=["generate"])


@router.post("/generate", response_model=_ANSWER, responses=_ERRORS)
async def generate(
    request: Request, services: WithServices, body: GenerateRequest, x_task_id: TaskHeader = None
) -> Response:
    """Answer one prompt with an object, a list of prompts with a list.

    Repeating a request is safe: generation changes nothing.
    """
    return await _answer(request, services, body, named_task(body, header=x_task_id))


@router.post("/v1/tasks/{task_id:path}/generate", response_model=_ANSWER, responses=_ERRORS)
async def generate_for_task(
    request: Request,
    services: WithServices,
    task_id: TaskPath,
    body: GenerateRequest,
    x_task_id: TaskHeader = None,
) -> Response:
    """The same with the task in the path, where proxies can hash on it."""
    task = named_task(body, path=task_id, header=x_task_id)
    return await _answer(request, services, body, task)


@router.post(
    "/generate_stream",
    response_model=StreamEvent,
    response_class=EventStream,
    responses=_STREAM_ERRORS,
)
async def generate_stream(
    request: Request, services: WithServices, body: GenerateRequest, x_task_id: TaskHeader = None
) -> Response:
    """Answer one prompt token by token. Errors before the first token have their status."""
    return await _stream(request, services, body, named_task(body, header=x_task_id))


@router.post(
    "/v1/tasks/{task_id:path}/generate_stream",
    response_model=StreamEvent,
    response_class=EventStream,
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
    task = named_task(body, path=task_id, header=x_task_id)
    return await _stream(request, services, body, task)


async def _answer(
    request: Request, services: Services, body: GenerateRequest, task: str | None
) -> Response:
    record = record_of(request.scope)
    admitted = await admit(services, record, task, body)
    cause: CancelCause = "error"  # also of the others when one of a list fails
    try:
        collecting = asyncio.gather(*(stream.collect() for stream in admitted.streams))
        results = await unless_hung_up(request, collecting, _patience(services, admitted))
    except HungUp:
        cause = "client_disconnect"
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    finally:
        admitted.cancel(cause)
    finishes = [finish for _, finish in results]
    record.generated_tokens = sum(finish.generated_tokens for finish in finishes)
    responses = [
        answers.response_of(admitted, index, tokens, finish)
        for index, (tokens, finish) in enumerate(results)
    ]
    content = (
        _ANSWERS.dump_json(responses) if body.shape == "list" else responses[0].model_dump_json()
    )
    headers = answers.identity_headers(admitted) | answers.timing_headers(finishes)
    return Response(content, media_type="application/json", headers=headers)


async def _stream(
    request: Request, services: Services, body: GenerateRequest, task: str | None
) -> Response:
    if body.shape == "list":
        raise InvalidInput("a stream answers one prompt; give a string, or use /generate")
    admitted = await admit(services, record_of(request.scope), task, body)
    events = admitted.streams[0].events()
    cause: CancelCause = "error"
    try:
        # The first event decides the status: a prompt that times out in the queue is still a 504.
        first = await unless_hung_up(request, anext(events), _patience(services, admitted))
        if first.finish is not None:
            raise_unless_finished(first.finish)
    except BaseException as error:
        if isinstance(error, HungUp):
            cause = "client_disconnect"
        admitted.cancel(cause)
        if isinstance(error, HungUp):
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        raise
    return EventStream(admitted, first, events)


def _patience(services: Services, admitted: Admitted) -> float:
    return max(0.0, admitted.deadline - services.clock()) + _LAST_RESORT_SECONDS
