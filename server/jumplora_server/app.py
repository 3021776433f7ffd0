"""The composition root: the only place that constructs the parts and joins them to an app."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import torch
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from jumplora_adapters.backbone import Backbone, read_backbone, resolve_backbone
from jumplora_adapters.errors import AdapterError
from jumplora_server.access.live_keys import LiveKeys
from jumplora_server.access.quotas import Quotas
from jumplora_server.access.source import KeySource
from jumplora_server.api import routes
from jumplora_server.changes import Changes
from jumplora_server.core import Detokenizer
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import NativeUnavailable
from jumplora_server.engine.tokenizer import Tokenizer
from jumplora_server.engine.warm_up import DRILLS
from jumplora_server.events import Events
from jumplora_server.http.connections import Traffic
from jumplora_server.http.server import HttpServer, http_server
from jumplora_server.lag import LoopLag
from jumplora_server.lifespan import start, stop
from jumplora_server.loop.loop import EngineLoop
from jumplora_server.loop.outbox import Delivery
from jumplora_server.metrics.metrics import Metrics
from jumplora_server.parts import (
    AnyEngine,
    StartupError,
    check_traces,
    floors_of,
    folding_of,
    log_generation,
    measure_always,
    open_store,
    templates_of,
    tracer_of,
    warm_up_prompt,
    watchdog_of,
)
from jumplora_server.publishing import Publishing
from jumplora_server.residency.residency import Residency
from jumplora_server.residency.trials import CanaryRun, TrialRun
from jumplora_server.services import Hardware, Lifecycle, Services, served_name
from jumplora_server.settings import Settings
from jumplora_server.staged.referee import Referee
from jumplora_server.staged.stages import Stages
from jumplora_server.version import VERSION

# A busy Python thread holds the interpreter for this long at a time; at the default of 5 ms the
# engine thread, which takes the lock dozens of times in a step, is slowed down many times.
SWITCH_SECONDS = 0.0002
WARM_UP_SECONDS = 10.0  # at most, and a step more; later kinds of batches are then left out
DESCRIPTION = (
    "Many sparse task adapters on one T5 backbone, mixed in one batch. Name a task by `task_id`; "
    "generation changes nothing, so repeating a request is safe."
)


_log = logging.getLogger(__name__)


STARTUP_ERRORS = (StartupError, AdapterError, OSError)


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that is started and stopped, joined together."""

    services: Services
    delivery: Delivery


def assemble(settings: Settings) -> Parts:
    """Load the backbone and join all parts. Takes seconds. Raises one of STARTUP_ERRORS."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise StartupError("device cuda was given, but torch sees none on this machine")
    check_traces(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    # Said once by torch of a whole class of operations; we use one product of it, and test that.
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
    folder = resolve_backbone(settings.backbone)
    backbone = read_backbone(folder)
    log_generation(backbone.generation)
    try:
        engine = Engine(
            folder,
            dtype=settings.dtype,
            device=settings.device,
            kernels=settings.kernels,
            max_rows=settings.max_rows + settings.spare_rows,
            max_source_tokens=settings.max_source_tokens,
            max_target_tokens=settings.max_target_tokens,
        )
    except (ValueError, NativeUnavailable) as error:  # what was asked for does not go together
        raise StartupError(str(error)) from error
    tokenizer = Tokenizer.load(folder, rows=engine.vocab_size)
    _warm_up(engine)
    parts = connect(settings, backbone, engine, tokenizer)
    parts.services.metrics.model_bytes(engine.weight_bytes)
    return parts


def _warm_up(engine: Engine) -> None:
    began = time.monotonic()
    done = engine.warm_up(WARM_UP_SECONDS)
    seconds = time.monotonic() - began
    _log.info("warmed up in %.1f s: %d of %d kinds of batches", seconds, done, len(DRILLS))


def connect(
    settings: Settings,
    backbone: Backbone,
    engine: AnyEngine,
    tokenizer: Tokenizer,
    *,
    detokenizer: Callable[[], Detokenizer] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Parts:
    """Join an engine and a tokenizer with the rest, on a new registry. Raises StartupError,
    KeysFault."""
    metrics = Metrics(
        CollectorRegistry(),
        clock=clock,
        max_task_labels=settings.max_task_labels,
        page_seconds=settings.metrics_max_age,
    )
    quotas = Quotas(clock, metrics.key_rejected, metrics.key_removed)
    keys = LiveKeys(KeySource.of(settings), clock=clock, changed=quotas.keep)
    metrics.build_info(VERSION, torch.__version__)
    tracer = tracer_of(settings, metrics, clock)
    events = Events()
    store = open_store(settings)
    delivery = Delivery()
    loop: EngineLoop

    # Residency runs its trials through the loop, the loop claims slots from residency.
    def submit(**trial: Any) -> int:
        return loop.submit(**trial)

    prompt = warm_up_prompt(tokenizer, engine.limits)
    residency = Residency(
        store,
        backbone,
        engine,
        folding=folding_of(settings, engine),
        metrics=metrics,
        events=events,
        warm_up=TrialRun(submit, prompt, clock),
        replay_canaries=CanaryRun(
            submit, tokenizer.encode, engine.limits, clock, floor=settings.canary_floor
        ),
        clock=clock,
        watch_seconds=settings.watch_seconds,
        max_overlap_tasks=settings.max_overlap_tasks,
        canary_drop=settings.stage_canary_drop,
        reserved={settings.base_name, served_name(settings, backbone)},
    )
    loop = EngineLoop(
        engine,
        residency.table,
        detokenizer or tokenizer.detokenizer,
        metrics=metrics,
        queue_limits=settings.queue_limits,
        spare_rows=settings.spare_rows,
        max_encode_tokens=settings.max_encode_tokens,
        deliver=delivery,
        clock=clock,
    )
    residency.on_change(loop.wake)
    residency.on_load(tracer.loaded)
    publishing = Publishing(store, backbone, residency, load_seconds=settings.load_timeout)
    stages = Stages(store, publishing, metrics)
    lifecycle = Lifecycle(events)
    services = Services(
        settings=settings,
        backbone=backbone,
        tokenizer=tokenizer,
        templates=templates_of(settings, tokenizer),
        store=store,
        metrics=metrics,
        residency=residency,
        publishing=publishing,
        stages=stages,
        referee=Referee(residency, stages, metrics, floors_of(settings), clock),
        loop=loop,
        quotas=quotas,
        limits=engine.limits,
        hardware=Hardware(engine.kernels, engine.weight_bytes),
        prompts_per_request=settings.prompts_per_request,
        clock=clock,
        began=clock(),
        watchdog=watchdog_of(settings, lifecycle, clock, loop, (*residency.pulses, *keys.pulses)),
        lifecycle=lifecycle,
        events=events,
        changes=Changes(store),
        tracer=tracer,
        lag=LoopLag(metrics.event_loop_lag),
        keys=keys,
    )
    measure_always(services)
    return Parts(services, delivery)


def build(settings: Settings, parts: Parts) -> FastAPI:
    """The app; its lifespan starts and stops `parts`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with running(parts):
            yield

    app = FastAPI(
        title="JumpLoRA server",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        # The framework's own spans have paths and queries in them, and it would export by itself
        # where FASTAPI_OTEL_AUTO_CONFIGURE says so.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        openapi_url=None,  # and the pages that show it: `docs` has ours
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,  # the operation's id
    )
    routes.add_routes(app, parts.services)
    return app


def server(settings: Settings, parts: Parts) -> HttpServer:
    """The HTTP server of `parts`, joined to what its end asks of them."""
    services = parts.services
    return http_server(
        build(settings, parts),
        settings,
        traffic(services),
        on_drain=services.lifecycle.drain,
        on_refuse=services.loop.drain,
        on_cut_off=services.loop.stop,
    )


def traffic(services: Services) -> Traffic:
    """What the HTTP server has to know of the app."""
    return routes.traffic(services)


@asynccontextmanager
async def running(parts: Parts) -> AsyncGenerator[None]:
    """`parts` started within the block, on this event loop, and stopped behind it."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        await start(parts.services, parts.delivery)
        yield
    finally:
        await stop(parts.services, parts.delivery)
        sys.setswitchinterval(interval)
