"""OpenAI's dialect: its errors, `/v1/models`, and what `/v1/completions` and
`/v1/chat/completions` (`openai_completions`, `openai_chat`) have in common.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request
from pydantic import BaseModel
from starlette.responses import Response

from jumplora_server.api.ask import Ask, ChoicesAsked, FieldNames, Origin, check_spec, record_of
from jumplora_server.api.dialect import Dialect, Fault
from jumplora_server.api.errors import fault_of
from jumplora_server.api.health import WithServices
from jumplora_server.api.openai_answers import (
    FinishReason,
    ModelCard,
    ModelList,
    OpenAiError,
    Usage,
)
from jumplora_server.api.openai_schemas import OpenAiRequest
from jumplora_server.api.route import TASK_HEADER, DialectRoute, JsonRoute
from jumplora_server.core import FinishReason as Reason
from jumplora_server.errors import InvalidInput, ServerError, UnknownTask, UnknownVersion
from jumplora_server.residency.entries import unknown_task
from jumplora_server.services import Services

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# Codes of ours that OpenAI's clients know by another name.
_CODES = {
    "unknown_task": "model_not_found",
    "unknown_version": "model_not_found",
    "unauthorized": "invalid_api_key",
    "input_too_long": "context_length_exceeded",
    "task_quota": "rate_limit_exceeded",
}
_ROUTES = "POST /v1/chat/completions, POST /v1/completions, GET /v1/models"
_FIELD = re.compile(r"([A-Za-z_][A-Za-z0-9_.\[\]]{0,63}): ", re.ASCII)
_ABOUT_FIELDS = frozenset({"validation", "input_too_long"})


def error_object(fault: Fault) -> Mapping[str, object]:
    """OpenAI's form. What was wrong with a field has the field's name before it."""
    kind = _TYPES.get(fault.status)
    if kind is None:
        kind = "invalid_request_error" if fault.status < 500 else "server_error"
    message, param = fault.message, None
    if fault.code in _ABOUT_FIELDS and (field := _FIELD.match(message)) is not None:
        param = field[1]
    if fault.code in ("unknown_task", "unknown_version"):
        param = "model"
    if fault.code == "not_found":
        message += f". Of OpenAI's API there are {_ROUTES}"
    code = _CODES.get(fault.code, fault.code)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


OPENAI = Dialect(error_object, statuses={413: 400, 422: 400})
FORMS: Mapping[str, Dialect | None] = {"/v1": OPENAI, "/v1/adapters": None, "/v1/tasks": None}


class OpenAiRoute(DialectRoute):
    """What a client of OpenAI's generates with."""

    dialect = OPENAI


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAiError} for status in (400, 401, 403, 404, 429, 500, 503, 504)
}
TaskHeader = Annotated[
    str | None, Header(alias=TASK_HEADER, description="may carry the task; must agree with model")
]


def named_task(services: Services, model: str | None, header: str | None) -> str:
    """The task spec that is asked for. The backbone may be called by the name that it is served by.

    Raises InvalidInput, and UnknownTask for what cannot be a task's name.
    """
    if model is not None and header is not None and model != header:
        raise InvalidInput(
            f"model: {model[:100]!a} was given, but {header[:100]!a} in the header {TASK_HEADER}; "
            "give one of them"
        )
    spec = header if model is None else model
    spec = services.settings.default_task if spec is None else spec
    if spec is None:
        raise InvalidInput(
            'model: is missing; name a task, as in {"model": "agnews"}. GET /v1/models lists them'
        )
    if spec == services.served_name and not services.residency.knows(spec):
        return services.settings.base_name
    try:
        return check_spec(spec)
    except InvalidInput as error:
        raise UnknownTask(error.message) from error


def parameters_of(
    body: OpenAiRequest, services: Services, max_tokens: int | None
) -> dict[str, Any]:
    """How to generate, by the names of a manifest; nothing where one of some choices is wanted.

    Without sampling top_p, top_k and seed have no effect, and are left out.
    """
    if body.structured_outputs is not None:
        return {}
    if max_tokens is not None:
        max_tokens = min(max_tokens, services.limits.max_target_tokens)
    asked = {
        "max_new_tokens": max_tokens,
        "min_new_tokens": body.min_tokens,
        "repetition_penalty": body.repetition_penalty,
        "no_repeat_ngram_size": body.no_repeat_ngram_size,
        "num_beams": body.num_beams,
        "length_penalty": body.length_penalty,
        "early_stopping": body.early_stopping,
        "stop": body.stop,
        "n": body.n,
    }
    if body.best_of is not None and body.best_of != (body.n or 1):
        asked |= {"n": body.n or 1, "best_of": body.best_of}
    if body.temperature == 0:
        asked["do_sample"] = False
    else:
        asked |= {"temperature": body.temperature, "top_k": body.top_k, "seed": body.seed}
        if body.temperature is not None or body.top_p != 1:  # alone it asks for nothing
            asked["top_p"] = body.top_p
    return {name: value for name, value in asked.items() if value is not None}


def choices_of(body: OpenAiRequest, *, has_logprobs: bool) -> ChoicesAsked | None:
    """The options that are asked for, and from when on none of them is the answer."""
    choice = body.structured_outputs
    if choice is None:
        for name in ("min_probability", "min_mass"):
            if getattr(body, name) is not None:
                raise InvalidInput(f"{name}: has no effect without structured_outputs.choice")
        return None
    several = {"n": body.n, "best_of": body.best_of, "num_beams": body.num_beams}
    for name, count in several.items():
        if count is not None and count > 1:
            raise InvalidInput(f"{name}: a choice is one answer; leave it out, or give 1")
    if body.stream:
        raise InvalidInput("stream: a choice comes whole; leave it out, or give false")
    if has_logprobs:
        raise InvalidInput("logprobs: a choice has its ranking instead; leave it out")
    options = None if choice is True else tuple(choice)
    return ChoicesAsked(options, body.min_probability, body.min_mass)


def field_names(prompts: str, max_tokens: str = "max_tokens") -> FieldNames:
    """How these routes call what a message is about."""
    renamed = {
        "max_new_tokens": max_tokens,
        "min_new_tokens": "min_tokens",
        "truncate": "truncate_prompt_tokens",
        "choices": "structured_outputs.choice",
    }
    return FieldNames(prompts, renamed=renamed)


def truncate_of(body: OpenAiRequest, services: Services) -> int | None:
    """How many tokens of a prompt are read."""
    asked = body.truncate_prompt_tokens
    return services.limits.max_source_tokens if asked == -1 else asked


@dataclass(frozen=True, slots=True)
class Head:
    """What all events of an answer have in common."""

    id: str
    created: int
    model: str

    @classmethod
    def of(cls, request: Request, prefix: str, model: str) -> Head:
        """Of a request that is answered now; its id is also in `x-request-id`."""
        return cls(f"{prefix}-{record_of(request.scope).request_id}", int(time.time()), model)


class OpenAiWriter:
    """What answers of both routes have in common: the head, the usage, the end and the errors."""

    def __init__(self, ask: Ask, body: OpenAiRequest, head: Head) -> None:
        options = body.stream_options
        self.answers = body.n or 1
        self.shows_logprobs = ask.logprobs != "none"
        self._head = head
        self._has_usage = options is not None and options.include_usage is True
        self._completion_tokens = 0

    def count(self, tokens: int) -> None:
        """Add an answer's tokens to the usage."""
        self._completion_tokens += tokens

    def envelope(self, origin: Origin, kind: str) -> dict[str, Any]:
        """The fields around the choices."""
        ref, head = origin.ref, self._head
        return {
            "id": head.id,
            "object": kind,
            "created": head.created,
            "model": head.model,
            "system_fingerprint": None if ref is None else ref.version[:12],
        }

    def body(self, envelope: Mapping[str, Any], origin: Origin, pieces: str) -> str:
        """The whole answer; `pieces` are its choices as JSON."""
        usage = self.usage(origin).model_dump_json()
        return f'{json.dumps(envelope)[:-1]},"choices":[{pieces}],"usage":{usage}}}'

    def usage(self, origin: Origin) -> Usage:
        """Of all that was answered so far."""
        prompt, completion = origin.prompt_tokens, self._completion_tokens
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
        )

    def chunk(self, envelope: dict[str, Any], choice: BaseModel) -> bytes:
        """The event of one choice. Where the last event has the usage, the others have null."""
        whole = envelope | {"choices": [choice.model_dump(exclude_unset=True)]}
        return event(whole | ({"usage": None} if self._has_usage else {}))

    def end(self, envelope: dict[str, Any], origin: Origin) -> bytes:
        """The last events of a stream."""
        done = b"data: [DONE]\n\n"
        if not self._has_usage:
            return done
        usage = self.usage(origin).model_dump()
        return event(envelope | {"choices": [], "usage": usage}) + done

    def broken_off(self, error: ServerError) -> bytes:
        """The error, as an event."""
        return event(error_object(fault_of(error, OPENAI.statuses)))


def event(told: Mapping[str, object]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(told).encode() + b"\n\n"


FINISH_REASONS: Mapping[Reason, FinishReason] = {
    Reason.EOS_TOKEN: "stop",
    Reason.STOP_SEQUENCE: "stop",
    Reason.LENGTH: "length",
    Reason.ABSTAINED: "stop",
}

router = APIRouter(tags=["openai"], route_class=JsonRoute)
_LINES_A_TURN = 64  # of the event loop, which others wait for: less than a millisecond


@router.get("/v1/models", response_model=ModelList, responses={401: {"model": OpenAiError}})
async def list_models(request: Request, services: WithServices) -> Response:
    """The backbone, whose `parent` is null, then all registered tasks."""
    caller = record_of(request.scope).caller
    cards = [] if services.residency.knows(services.served_name) else [_backbone(services)]
    for number, status in enumerate(services.residency.each_status(), start=1):
        if caller.may_see(status.task_id):
            created = "" if status.manifest is None else status.manifest.created
            cards.append(_card(services, status.task_id, created))
        if number % _LINES_A_TURN == 0:
            await asyncio.sleep(0)
    content = ",".join(card.model_dump_json() for card in cards)
    return Response(f'{{"object":"list","data":[{content}]}}', media_type="application/json")


@router.get(
    "/v1/models/{model:path}",
    response_model=ModelCard,
    responses={status: {"model": OpenAiError} for status in (401, 404)},
)
async def get_model(
    request: Request,
    services: WithServices,
    model: Annotated[str, Path(description='"task" or "task@version", or the backbone\'s name')],
) -> Any:
    """One of them. A version of a task is found too, if it is in the task's history."""
    if model == services.served_name and not services.residency.knows(model):
        return _backbone(services)
    try:
        task, _, version = check_spec(model).partition("@")
    except InvalidInput as error:
        raise UnknownTask(error.message) from error
    if not record_of(request.scope).caller.may_see(task):
        raise unknown_task(task)
    status = services.residency.status(task)
    if version and sum(digest.startswith(version) for digest in status.history) != 1:
        raise UnknownVersion(f"task {task!r} has not one version {version!r}")
    created = "" if status.manifest is None or version else status.manifest.created
    return _card(services, model, created)


def _backbone(services: Services) -> ModelCard:
    name = services.served_name
    return ModelCard(
        id=name, object="model", created=0, owned_by="jumplora", root=name, parent=None
    )


def _card(services: Services, name: str, created: str) -> ModelCard:
    return ModelCard(
        id=name,
        object="model",
        created=_seconds(created),
        owned_by="jumplora",
        root=name,
        parent=services.served_name,
    )


def _seconds(created: str) -> int:
    """A manifest's time, which may be any text, in seconds since 1970."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return 0
    return max(0, int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()))
