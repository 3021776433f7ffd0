"""TGI's dialect: what `/generate` and `/generate_stream` take, and what they answer.

The first dialect, and the one to copy: schemas (here those of `schemas`), `to_ask`, how answers and
errors are written, the routes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request
from starlette.responses import Response

from jumplora_server.api.answering import EventStream, answer, answer_of, stream
from jumplora_server.api.ask import (
    Ask,
    Caller,
    ChoicesAsked,
    FieldNames,
    Origin,
    Ranking,
    Result,
    check_spec,
    record_of,
)
from jumplora_server.api.dialect import Dialect
from jumplora_server.api.errors import error_body, shown_message
from jumplora_server.api.health import WithServices
from jumplora_server.api.route import TASK_HEADER, DialectRoute
from jumplora_server.api.schemas import (
    Details,
    ErrorBody,
    GenerateRequest,
    GenerateResponse,
    Parameters,
    StreamEvent,
    TokenInfo,
)
from jumplora_server.core import Answer, Sampling, Token, TokenEvent, Wanted
from jumplora_server.errors import InvalidInput, ServerError

# Of `parameters`, those that choose tokens; the others are fields of an Ask.
_OTHERS = frozenset(
    {"truncate", "details", "timeout_ms", "adapter_id", "choices", "min_probability", "min_mass"}
)


def to_ask(
    caller: Caller, body: GenerateRequest, task: str | None, *, is_streamed: bool = False
) -> Ask:
    """What a request wants. Raises InvalidInput for a stream of several prompts."""
    if is_streamed and body.shape == "list":
        raise InvalidInput("a stream answers one prompt; give a string, or use /generate")
    parameters = body.parameters
    # Tokens are shown with the details only; without, the engine thread has less to tell.
    wants: Wanted = "tokens" if is_streamed or parameters.details else "end"
    timeout = parameters.timeout_ms
    return Ask(
        caller=caller,
        task=task,
        prompts=body.prompts,
        form="prompts" if body.text is None else "texts",
        shape=body.shape,
        wants=wants,
        names=FieldNames("inputs" if body.text is None else "text", prefix="parameters."),
        parameters=parameters.model_dump(exclude_none=True, exclude=set(_OTHERS)),
        logprobs="chosen" if parameters.details else "none",
        streamed="one" if is_streamed else "no",
        choices=_choices(parameters),
        truncate=parameters.truncate,
        timeout_seconds=None if timeout is None else timeout / 1000,
    )


def _choices(parameters: Parameters) -> ChoicesAsked | None:
    given = parameters.choices
    if given is None:
        return None
    options = None if given is True else tuple(given)
    return ChoicesAsked(options, parameters.min_probability, parameters.min_mass)


class TgiWriter:
    """Answers as TGI writes them."""

    def __init__(self, ask: Ask) -> None:
        self._is_list = ask.shape == "list"

    def piece(self, origin: Origin, index: int, result: Result) -> str:
        """An object with the text and its details."""
        del index
        best, *others = result.answers
        details = _details(origin, best, result.prompt_tokens)
        if others:
            details["best_of_sequences"] = [
                {"generated_text": other.text, **_ending(other)} for other in others
            ]
        if result.ranking is not None:
            details |= _ranking(result.ranking)
        return GenerateResponse(
            generated_text=best.text, details=Details.model_validate(details)
        ).model_dump_json()

    def whole(self, origin: Origin, pieces: Sequence[str]) -> str:
        """A list where a list was given."""
        del origin
        return f"[{','.join(pieces)}]" if self._is_list else pieces[0]

    def event(
        self, origin: Origin, number: int, sampling: Sampling, index: int, event: TokenEvent
    ) -> bytes:
        """A token; the last one has the whole text and the details."""
        del number
        finish, details = event.finish, None
        if finish is not None:
            whole = answer_of(finish, sampling, ())  # all tokens were shown before
            details = Details.model_validate(_details(origin, whole, finish.prompt_tokens))
        told = StreamEvent(
            index=index,
            token=None if event.token is None else _token(event.token),
            generated_text=None if finish is None else finish.text,
            details=details,
        )
        return b"data:" + told.model_dump_json().encode() + b"\n\n"

    def ending(self, origin: Origin) -> bytes:
        """Nothing: the last event says that it is the last."""
        del origin
        return b""

    def broken_off(self, error: ServerError) -> bytes:
        """The error, as an event."""
        body = {"error": shown_message(error.message), "error_type": error.code}
        return b"data:" + json.dumps(body).encode() + b"\n\n"


def _details(origin: Origin, answer: Answer, prompt_tokens: int) -> dict[str, Any]:
    return {
        **_ending(answer),
        "prompt_tokens": prompt_tokens,
        "task_id": None if origin.ref is None else origin.ref.task,
        "adapter_version": None if origin.ref is None else origin.ref.version,
    }


def _ranking(ranking: Ranking) -> dict[str, Any]:
    return {
        "choices": [option._asdict() for option in ranking.options],
        "mass": ranking.mass,
        "temperature": ranking.temperature,
        "calibrated_by": ranking.calibrated_by,
    }


def _ending(answer: Answer) -> dict[str, Any]:
    return {
        "finish_reason": answer.reason.value,
        "generated_tokens": answer.generated_tokens,
        "seed": answer.seed,
        "score": answer.score,
        "tokens": [_token(token) for token in answer.tokens],
    }


def _token(token: Token) -> TokenInfo:
    return TokenInfo(id=token.id, text=token.text, logprob=token.logprob, special=token.special)


TGI = Dialect(error_body)


def named_task(
    body: GenerateRequest, *, path: str | None = None, header: str | None = None
) -> str | None:
    """The task spec of a request; None where a null was given everywhere (the bare backbone).

    Raises InvalidInput when no place names a task or two places disagree.
    """
    given: dict[str, str | None] = {}
    if path is not None:
        given["the path"] = path
    if header is not None:
        given[f"the header {TASK_HEADER}"] = header
    for name in ("task_id", "adapter_id", "model"):
        if name in body.model_fields_set:
            given[name] = getattr(body, name)
    if "adapter_id" in body.parameters.model_fields_set:
        given["parameters.adapter_id"] = body.parameters.adapter_id
    if not given:
        raise InvalidInput(
            'task_id: is missing; name a task, as in {"task_id": "agnews", ...}, '
            f"or send the header {TASK_HEADER}"
        )
    _check_agreement(given)
    spec = next(iter(given.values()))
    return spec if spec is None else check_spec(spec)


def _check_agreement(given: Mapping[str, str | None]) -> None:
    (first_name, first), *others = given.items()
    for name, value in others:
        if value != first:
            raise InvalidInput(
                f"{first_name} and {name} disagree: {_shown(first)} and {_shown(value)}"
            )


def _shown(value: str | None) -> str:
    return "null" if value is None else ascii(value[:100])


class TgiRoute(DialectRoute):
    """What a TGI client calls."""

    dialect = TGI
    body = GenerateRequest


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

router = APIRouter(tags=["generate"], route_class=TgiRoute)


@router.post("/generate", response_model=_ANSWER, responses=_ERRORS)
async def generate(
    request: Request, services: WithServices, body: GenerateRequest, x_task_id: TaskHeader = None
) -> Response:
    """Answer one prompt with an object, a list of prompts with a list.

    Repeating a request is safe: generation changes nothing.
    """
    task = named_task(body, header=x_task_id)
    ask = to_ask(_caller(request), body, task)
    return await answer(request, services, ask, TgiWriter(ask))


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
    ask = to_ask(_caller(request), body, task)
    return await answer(request, services, ask, TgiWriter(ask))


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
    task = named_task(body, header=x_task_id)
    ask = to_ask(_caller(request), body, task, is_streamed=True)
    return await stream(request, services, ask, TgiWriter(ask))


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
    ask = to_ask(_caller(request), body, task, is_streamed=True)
    return await stream(request, services, ask, TgiWriter(ask))


def _caller(request: Request) -> Caller:
    return record_of(request.scope).caller
