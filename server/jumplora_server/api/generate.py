"""The routes that generate, in TGI's dialect: one answer, a list of answers, or a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from jumplora_server.api import answers
from jumplora_server.api.admit import Admitted, admit
from jumplora_server.api.errors import CLIENT_CLOSED_REQUEST
from jumplora_server.api.event_stream import EventStream
from jumplora_server.api.hang_up import HungUp, unless_hung_up
from jumplora_server.api.health import WithServices, services_of
from jumplora_server.api.json_body import JsonRequest
from jumplora_server.api.record import record_of
from jumplora_server.api.schemas import ErrorBody, GenerateRequest, GenerateResponse, StreamEvent
from jumplora_server.api.stream import CancelCause, failure_of
from jumplora_server.api.task_spec import TASK_HEADER, named_task
from jumplora_server.core import Wanted
from jumplora_server.errors import DeadlineExceeded, InvalidInput
from jumplora_server.services import Services

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

TaskHeader = Annotated[
    str | None, Header(alias=TASK_HEADER, description="may carry the task id; must agree")
]
TaskPath = Annotated[str, Path(description='"task" or "task@version"')]


class GenerateRoute(APIRoute):
    """A route for a GenerateRequest and a task id from everywhere it may stand.

    What the endpoints declare makes the OpenAPI document. The framework would solve it anew for
    each request, in 0.2 ms: a third of what a refused request costs the app.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Call the endpoint with what it declares."""
        endpoint = self.endpoint

        async def handler(plain: Request) -> Response:
            request = JsonRequest(plain.scope, plain.receive)
            response: Response = await endpoint(
                request=request,
                services=await services_of(request),
                body=await request.model(GenerateRequest),
                x_task_id=request.headers.get(TASK_HEADER),
                **request.path_params,
            )
            return response

        return handler


router = APIRouter(tags=["generate"], route_class=GenerateRoute)


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
    status_code=200,
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
    task = named_task(body, path=task_id, header=x_task_id)
    return await _stream(request, services, body, task)


async def _answer(
    request: Request, services: Services, body: GenerateRequest, task: str | None
) -> Response:
    record = record_of(request.scope)
    # Tokens are shown with the details only; without, the engine thread has less to tell.
    wants: Wanted = "tokens" if body.parameters.details else "end"
    admitted = await admit(services, record, task, body, wants=wants)
    cause: CancelCause = "error"  # also of the others when one of a list fails
    try:
        collected = [stream.collected() for stream in admitted.streams]
        if len(collected) > 1:
            work = asyncio.gather(*collected)
            results = await unless_hung_up(request, work, _patience(services, admitted))
        else:
            (only,) = collected
            results = [await unless_hung_up(request, only, _patience(services, admitted))]
    except HungUp:
        cause = "client_disconnect"
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except DeadlineExceeded:
        cause = "timeout"
        raise
    finally:
        admitted.cancel(cause)
    finishes = [finish for _, finish in results]
    record.generated_tokens = sum(finish.generated_tokens for finish in finishes)
    bodies = []
    for index, (tokens, finish) in enumerate(results):
        bodies.append(answers.response_of(admitted, index, tokens, finish).model_dump_json())
        if body.parameters.details:  # half a millisecond each, which others should not wait for
            await asyncio.sleep(0)
    content = f"[{','.join(bodies)}]" if body.shape == "list" else bodies[0]
    headers = answers.identity_headers(admitted) | answers.timing_headers(finishes)
    return Response(content, media_type="application/json", headers=headers)


async def _stream(
    request: Request, services: Services, body: GenerateRequest, task: str | None
) -> Response:
    if body.shape == "list":
        raise InvalidInput("a stream answers one prompt; give a string, or use /generate")
    record = record_of(request.scope)
    admitted = await admit(services, record, task, body, wants="tokens")
    events = admitted.streams[0].events()
    try:
        # The first event decides the status: a prompt that times out in the queue is still a 504.
        first = await unless_hung_up(request, anext(events), _patience(services, admitted))
        failure = None if first.finish is None else failure_of(first.finish)
        if failure is not None:
            raise failure
        return EventStream(admitted, record, first, events)
    except HungUp:
        admitted.cancel("client_disconnect")
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except BaseException as error:
        admitted.cancel("timeout" if isinstance(error, DeadlineExceeded) else "error")
        raise


def _patience(services: Services, admitted: Admitted) -> float:
    return max(0.0, admitted.deadline - services.clock()) + _LAST_RESORT_SECONDS
