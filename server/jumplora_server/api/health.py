"""Is it alive, should it get traffic, what is it, how is it doing."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from jumplora_server.api.schemas import Info
from jumplora_server.residency.status import State
from jumplora_server.services import Services
from jumplora_server.version import VERSION


def services_of(request: Request) -> Services:
    """The parts that the app was built with."""
    services: Services = request.app.state.services
    return services


FAILED_STEPS = 5  # this many in a row are no longer the fault of one batch
WithServices = Annotated[Services, Depends(services_of)]
router = APIRouter(tags=["server"])


class Health(BaseModel):
    """`checks` names what was looked at, each "ok" or what is wrong."""

    status: str
    checks: dict[str, str]


def engine_check(services: Services) -> str:
    """ "ok" while the engine makes progress or has nothing to do."""
    progress = services.loop.progress
    if not progress.alive:
        return "the engine thread is not running"
    age = services.clock() - progress.last
    if progress.busy and age > services.settings.stall_seconds:
        return f"no step has ended for {age:.0f} s although sequences wait"
    return "ok"


def steps_check(services: Services) -> str:
    """ "ok" unless step after step fails.

    Without requests nothing shows that it got better, so after `stall_seconds` of quiet they are
    let in again: the next step tells.
    """
    progress = services.loop.progress
    is_quiet = services.clock() - progress.last > services.settings.stall_seconds
    if progress.failed_steps < FAILED_STEPS or is_quiet:
        return "ok"
    return f"the last {progress.failed_steps} steps failed; the server's log says why"


def adapters_check(services: Services) -> str:
    """ "ok" once the first adapters are settled, unless not one of all tasks can be served.

    That is what another backbone than the adapters' looks like, and no place to send requests to.
    """
    residency = services.residency
    if not residency.settled:
        return "the first adapters are being loaded"
    statuses = residency.statuses()
    has_base = services.settings.allow_base == "yes"
    if has_base or not statuses or any(s.state is not State.FAILED for s in statuses):
        return "ok"
    failure = statuses[0].failure
    why = f": {statuses[0].task_id}: {failure.message}" if failure else ""
    return f"none of {len(statuses)} tasks can be served{why}"


def _answer(checks: dict[str, str]) -> Response:
    is_ok = all(check == "ok" for check in checks.values())
    body = {"status": "ok" if is_ok else "unavailable", "checks": checks}
    return JSONResponse(
        body, status_code=200 if is_ok else 503, headers={} if is_ok else {"retry-after": "1"}
    )


@router.get("/livez", response_model=Health, responses={503: {"model": Health}})
async def livez(services: WithServices) -> Response:
    """Whether a restart would help: the event loop answers and the engine is not stuck."""
    return _answer({"engine": engine_check(services)})


@router.get("/readyz", response_model=Health, responses={503: {"model": Health}})
@router.get("/health", response_model=Health, responses={503: {"model": Health}})
async def readyz(services: WithServices) -> Response:
    """Whether requests should be sent here. A full queue is no reason: it would move the load."""
    residency = services.residency
    phase = services.lifecycle.phase
    return _answer(
        {
            "lifecycle": "ok" if phase == "serving" else phase,
            "engine": engine_check(services),
            "steps": steps_check(services),
            "loader": "ok" if residency.healthy else "the adapter loader or watcher has stopped",
            "adapters": adapters_check(services),
        }
    )


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(services: WithServices) -> Response:
    """Prometheus' text format, rendered beside the event loop."""
    page, content_type = await run_in_threadpool(services.metrics.render)
    return Response(page, headers={"content-type": content_type})


@router.get("/info", response_model=Info)
async def info(services: WithServices) -> Any:
    """The backbone and the limits of this server."""
    settings, limits = services.settings, services.limits
    return Info(
        version=VERSION,
        model_id=services.backbone.name,
        model_dtype=settings.dtype,
        model_device_type=settings.device,
        backbone_fingerprint=services.backbone.fingerprint,
        max_input_tokens=limits.max_source_tokens,
        max_new_tokens=limits.max_target_tokens,
        max_client_batch_size=settings.prompts_per_request,
        max_concurrent_requests=settings.max_queued_requests,
        max_batch_size=limits.max_rows,
        base=settings.base_name if settings.allow_base == "yes" else None,
        adapters=len(services.residency.statuses()),
    )
