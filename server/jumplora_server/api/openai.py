"""OpenAI's dialect: how its errors look, and `/v1/models`.

`openai_generation` has what its routes that generate have in common; they are
`openai_completions` and `openai_chat`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from jumplora_server.api.ask import check_spec, record_of
from jumplora_server.api.dialect import Dialect, Fault
from jumplora_server.api.health import WithServices
from jumplora_server.api.openai_answers import ModelCard, ModelList, OpenAiError
from jumplora_server.api.route import JsonRoute
from jumplora_server.errors import InvalidInput, UnknownTask, UnknownVersion
from jumplora_server.residency.entries import unknown_task
from jumplora_server.residency.status import TaskStatus
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


router = APIRouter(tags=["openai"], route_class=JsonRoute)
_LINES_A_TURN = 64  # of the event loop, which others wait for: less than a millisecond


@router.get("/v1/models", response_model=ModelList, responses={401: {"model": OpenAiError}})
async def list_models(request: Request, services: WithServices) -> Response:
    """The backbone, whose `parent` is null, then all registered tasks."""
    caller = record_of(request.scope).caller
    cards = [] if services.residency.knows(services.served_name) else [_backbone(services)]
    for number, status in enumerate(services.residency.each_status(), start=1):
        if caller.may_see(status.task_id):
            cards.append(_card(services, status.task_id, status))
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
    return _card(services, model, status)


def _backbone(services: Services) -> ModelCard:
    name = services.served_name
    return ModelCard(
        id=name, object="model", created=0, owned_by="jumplora", root=name, parent=None
    )


def _card(services: Services, name: str, status: TaskStatus) -> ModelCard:
    version, manifest = name.partition("@")[2], status.manifest
    is_served = status.version is not None and status.version.startswith(version)
    return ModelCard(
        id=name,
        object="model",
        created=0 if manifest is None or not is_served else _seconds(manifest.created),
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
