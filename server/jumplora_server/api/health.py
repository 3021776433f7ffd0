"""Is it alive, should it get traffic, what is it, how is it doing."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from jumplora_server.api.ask import record_of
from jumplora_server.api.schemas import Info
from jumplora_server.api.sight import base_of
from jumplora_server.api.task_names import default_task, visible_tasks
from jumplora_server.residency.entries import State
from jumplora_server.services import Services
from jumplora_server.version import VERSION


async def services_of(request: Request) -> Services:
    """The parts that the app was built with. Asynchronous, for a plain function would be called in
    the common threads, which may all wait for a disk while a probe must be answered."""
    services: Services = request.app.state.services
    return services


# Answered also where no more connections are allowed; each waits for no thread that others use.
PROBES = frozenset(
    {
        "/livez",
        "/readyz",
        "/health",
        "/ping",
        "/v2/health/live",
        "/v2/health/ready",
        "/metrics",
        "/info",
    }
)
THREADS = ("engine", "loader", "watcher")
# Probes need no key, so what they answer names no task and no folder.
SEE_LOG = "the server's log and the faults of GET /v1/overview say more"
NO_TASK = "no task is known, and the store cannot be read"
FAILED_STEPS = 5  # this many in a row are no longer the fault of one batch
WithServices = Annotated[Services, Depends(services_of)]
router = APIRouter(tags=["server"])


class Health(BaseModel):
    """`checks` names what was looked at, each "ok" or what is wrong.

    `status` is "degraded" where nothing of that stands in the way of an answer, and "unavailable"
    (with 503) where it does.
    """

    status: str
    checks: dict[str, str]


def thread_checks(services: Services) -> dict[str, str]:
    """Each thread that the server cannot do without: "ok", or what only a restart mends."""
    return dict.fromkeys(THREADS, "ok") | dict(services.watchdog.verdict.faults)


def remarks(services: Services) -> dict[str, str]:
    """What stands in the way of changes, not of answers: a disk that is slow or gone."""
    stuck, found = services.watchdog.verdict.stuck, dict[str, str]()
    if "loader" in stuck:
        found["loader"] = f"it stands still; {SEE_LOG}"
    if services.residency.store_fault is not None:
        found["store"] = f"it cannot be read; {SEE_LOG}"
    elif "watcher" in stuck:
        found["store"] = f"the thread that reads it stands still; {SEE_LOG}"
    return found


def details(services: Services) -> dict[str, str]:
    """More of what may be wrong, by check, with names of tasks and folders: for operators."""
    residency, stuck = services.residency, services.watchdog.verdict.stuck
    store = residency.store_fault or stuck.get("watcher")
    found = {
        "loader": services.watchdog.verdict.faults.get("loader") or stuck.get("loader"),
        "store": store,
        "adapters": _first_failure(services),
    }
    return {check: text for check, text in found.items() if text is not None}


def _first_failure(services: Services) -> str | None:
    residency = services.residency
    first = next(residency.each_status(), None)
    if first is None:
        fault = residency.store_fault
        return None if fault is None else f"{NO_TASK}: {fault}"
    if first.state is not State.FAILED or residency.is_starting:
        return None
    why = f": {first.task_id}: {first.failure.message}" if first.failure else ""
    return f"none of {residency.tasks} tasks can be served{why}"


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
    """ "ok" unless not one of all tasks can be served: each was tried, and failed.

    That is what another backbone than the adapters' looks like, or a store that was never there,
    and no place to send requests to. First loads are waited for during a second, which is enough
    for a few; after it a task that was not loaded yet is loaded for its first request.
    """
    residency = services.residency
    if residency.is_starting:
        return "the first adapters are being loaded"
    if services.settings.allow_base == "yes":
        return "ok"
    failed = 0
    for status in residency.each_status():  # nearly always the first one will do
        if status.state is not State.FAILED:
            return "ok"
        failed += 1
    if not failed:
        return "ok" if residency.store_fault is None else f"{NO_TASK}; {SEE_LOG}"
    return f"none of {failed} tasks can be served; {SEE_LOG}"


def _answer(checks: dict[str, str], remarks: dict[str, str]) -> Response:
    """`remarks` are shown where nothing worse is said, and do not change the status code."""
    is_ok = all(check == "ok" for check in checks.values())
    good = "degraded" if remarks else "ok"
    shown = checks | {
        name: text for name, text in remarks.items() if checks.get(name, "ok") == "ok"
    }
    body = {"status": good if is_ok else "unavailable", "checks": shown}
    return JSONResponse(
        body, status_code=200 if is_ok else 503, headers={} if is_ok else {"retry-after": "1"}
    )


@router.get("/livez", response_model=Health, responses={503: {"model": Health}})
async def livez(services: WithServices) -> Response:
    """Whether a restart would help: a thread died, or the engine hangs in a step. After a
    slow disk the next process would find the same."""
    return _answer(thread_checks(services), {})


@router.get("/readyz", response_model=Health, responses={503: {"model": Health}})
@router.get("/health", name="health", response_model=Health, responses={503: {"model": Health}})
@router.get("/ping", name="ping", response_model=Health, responses={503: {"model": Health}})
async def readyz(services: WithServices) -> Response:
    """Whether requests should be sent here. A full queue does not count: that moves the load.

    `/ping` is where SageMaker and some balancers ask it.
    """
    return _answer(ready_checks(services), remarks(services))


def ready_checks(services: Services) -> dict[str, str]:
    """All that an answer needs: "ok", or what is wrong with it."""
    phase = services.lifecycle.phase
    return {
        "lifecycle": "ok" if phase == "serving" else phase,
        **thread_checks(services),
        "steps": steps_check(services),
        "store": "ok",
        "adapters": adapters_check(services),
    }


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def get_metrics(request: Request, services: WithServices) -> Response:
    """Prometheus' text format, rendered beside the event loop, on threads of its own.

    A key of some tasks gets the series of these, and those of the whole server.
    """
    render = partial(services.metrics.render, record_of(request.scope).caller)
    page, content_type = await to_thread.run_sync(render, limiter=services.scrapes)
    return Response(page, headers={"content-type": content_type})


@router.get("/info", response_model=Info)
async def get_info(request: Request, services: WithServices) -> Any:
    """The backbone and the limits of this server, and how many tasks the key may see."""
    settings, limits, caller = services.settings, services.limits, record_of(request.scope).caller
    residency = services.residency
    seen = residency.tasks if caller.tasks is None else len(visible_tasks(residency.routes, caller))
    return Info(
        version=VERSION,
        model_id=services.served_name,
        model_dtype=settings.dtype,
        model_device_type=settings.device,
        backbone_fingerprint=services.backbone.fingerprint,
        backbone_fingerprints=list(services.backbone.fingerprints),
        max_input_tokens=limits.max_source_tokens,
        max_new_tokens=limits.max_target_tokens,
        max_client_batch_size=services.prompts_per_request,
        max_concurrent_requests=settings.max_queued_requests,
        max_batch_size=limits.max_rows,
        base=base_of(settings, caller),
        default_task=default_task(services, caller),
        adapters=seen,
    )
