"""OpenAI's `/v1/models`: the backbone and the tasks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from jumplora_server.api.ask import record_of
from jumplora_server.api.health import WithServices
from jumplora_server.api.openai.answers import ModelCard, ModelList, OpenAiError
from jumplora_server.api.route import JsonRoute
from jumplora_server.api.task_names import check_known_spec, check_visible, visible_tasks
from jumplora_server.api.turns import in_turns
from jumplora_server.residency.status import TaskStatus
from jumplora_server.services import Services

router = APIRouter(tags=["openai"], route_class=JsonRoute)


@router.get("/v1/models", response_model=ModelList, responses={401: {"model": OpenAiError}})
async def list_models(request: Request, services: WithServices) -> Response:
    """All registered tasks, then the backbone, whose `parent` is null.

    It is the last, because scripts ask the first of the list, and it may not be served by itself.
    """
    tasks = visible_tasks(services.residency.routes, record_of(request.scope).caller)
    statuses = services.residency.each_status(tasks)
    cards = await in_turns(
        _card(services, status.task_id, status).model_dump_json() for status in statuses
    )
    cards.append(_backbone(services).model_dump_json())
    content = ",".join(cards)
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
    if model == services.served_name:
        return _backbone(services)
    task, at, _ = check_known_spec(model).partition("@")
    check_visible(record_of(request.scope).caller, task)
    status = services.residency.status(task)
    version = services.residency.version_of(model) if at else None
    return _card(services, model, status, version)


def _backbone(services: Services) -> ModelCard:
    name = services.served_name
    return ModelCard(
        id=name, object="model", created=0, owned_by="jumplora", root=name, parent=None
    )


def _card(
    services: Services, name: str, status: TaskStatus, version: str | None = None
) -> ModelCard:
    """`version` is what the name means, where it names one."""
    manifest = status.manifest
    is_served = status.version is not None and version in (None, status.version)
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
