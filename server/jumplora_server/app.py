"""The composition root: the only place that constructs the parts and joins them to an app."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from jumplora_adapters.backbone import Backbone, read_backbone, resolve_backbone
from jumplora_adapters.errors import AdapterError, DataError, StoreError
from jumplora_adapters.generation import Generation
from jumplora_adapters.store import Store
from jumplora_adapters.store_lock import Patience
from jumplora_server.access.live_keys import LiveKeys
from jumplora_server.access.quotas import Quotas
from jumplora_server.access.source import KeySource
from jumplora_server.api import routes
from jumplora_server.changes import Changes
from jumplora_server.core import Detokenizer, EngineLimits, NoEmbedding
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import NativeUnavailable
from jumplora_server.engine.tokenizer import TemplateReader, Tokenizer
from jumplora_server.engine.warm_up import DRILLS
from jumplora_server.events import Events
from jumplora_server.http.connections import Traffic
from jumplora_server.http.server import HttpServer, http_server
from jumplora_server.lag import LoopLag
from jumplora_server.lifespan import start, stop
from jumplora_server.loop.loop import EngineLoop, StepEngine
from jumplora_server.loop.outbox import Delivery
from jumplora_server.metrics.gateway import Resident
from jumplora_server.metrics.metrics import Metrics
from jumplora_server.publishing import Publishing
from jumplora_server.pulse import Pulse
from jumplora_server.residency.engine import AdapterEngine
from jumplora_server.residency.entries import State
from jumplora_server.residency.folding import Folding
from jumplora_server.residency.residency import Residency
from jumplora_server.residency.trials import CanaryRun, TrialRun
from jumplora_server.services import Hardware, Lifecycle, Services, served_name
from jumplora_server.settings import Settings
from jumplora_server.staged.judging import Floors
from jumplora_server.staged.referee import Referee
from jumplora_server.staged.stages import Stages
from jumplora_server.tracing.tracer import NoTraces, Tracer
from jumplora_server.version import VERSION
from jumplora_server.watchdog import Limits, Look, Watchdog, is_stuck

# A busy Python thread holds the interpreter for this long at a time; at the default of 5 ms the
# engine thread, which takes the lock dozens of times in a step, is slowed down many times.
SWITCH_SECONDS = 0.0002
SWEEP_SECONDS = 1.0  # what interrupted changes left does no harm, so a start waits no longer
WARM_UP_SECONDS = 10.0  # at most, and a step more; later kinds of batches are then left out
# What the extra `traces` brings.
TRACES_NEED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
WARM_UP_TEXT = "Task Instruction: warm up\nText: The first run is slow.\nAnswer:"
DESCRIPTION = (
    "Many sparse task adapters on one T5 backbone, mixed in one batch. Name a task by `task_id`; "
    "generation changes nothing, so repeating a request is safe."
)


_log = logging.getLogger(__name__)


class StartupError(Exception):
    """This machine cannot run what the settings ask for."""


STARTUP_ERRORS = (StartupError, AdapterError, OSError)


class AnyEngine(StepEngine, AdapterEngine[Any], Protocol):
    """The real engine, or a test's."""

    @property
    def kernels(self) -> str:
        """What computes: an instruction set, torch."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that is started and stopped, joined together."""

    services: Services
    delivery: Delivery


def assemble(settings: Settings) -> Parts:
    """Load the backbone and join all parts. Takes seconds. Raises one of STARTUP_ERRORS."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise StartupError("device cuda was given, but torch sees none on this machine")
    _check_traces(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    # Said once by torch of a whole class of operations; we use one product of it, and test that.
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
    folder = resolve_backbone(settings.backbone)
    backbone = read_backbone(folder)
    _log_generation(backbone.generation)
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
    tracer = _tracer(settings, metrics, clock)
    events = Events()
    store = _open_store(settings)
    delivery = Delivery()
    loop: EngineLoop

    # Residency runs its trials through the loop, the loop claims slots from residency.
    def submit(**trial: Any) -> int:
        return loop.submit(**trial)

    prompt = _warm_up_prompt(tokenizer, engine.limits)
    residency = Residency(
        store,
        backbone,
        engine,
        folding=_folding(settings, engine),
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
        templates=_templates(settings, tokenizer),
        store=store,
        metrics=metrics,
        residency=residency,
        publishing=publishing,
        stages=stages,
        referee=Referee(residency, stages, metrics, _floors(settings), clock),
        loop=loop,
        quotas=quotas,
        limits=engine.limits,
        hardware=Hardware(engine.kernels, engine.weight_bytes),
        prompts_per_request=settings.prompts_per_request,
        clock=clock,
        began=clock(),
        watchdog=_watchdog(settings, lifecycle, clock, loop, (*residency.pulses, *keys.pulses)),
        lifecycle=lifecycle,
        events=events,
        changes=Changes(store),
        tracer=tracer,
        lag=LoopLag(metrics.event_loop_lag),
        keys=keys,
    )
    _measure_always(services)
    return Parts(services, delivery)


def _floors(settings: Settings) -> Floors:
    return Floors(
        settings.stage_min_requests,
        settings.stage_error_points,
        settings.stage_latency_ratio,
        settings.stage_latency_seconds,
    )


def _check_traces(settings: Settings) -> None:
    """Said before the backbone is loaded, which takes a while."""
    if settings.traces == "off":
        return
    missing = [name for name in TRACES_NEED if not _is_installed(name)]
    if missing:
        raise StartupError(
            f"JUMPLORA_TRACES={settings.traces} needs packages that are not installed "
            f"({', '.join(missing)}): pip install 'jumplora-server[traces]', or set "
            "JUMPLORA_TRACES=off"
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


def _tracer(settings: Settings, metrics: Metrics, clock: Callable[[], float]) -> Tracer:
    if settings.traces == "off":
        return NoTraces()
    _check_traces(settings)
    # Late: an extra, and 0.05 s that servers without traces need not wait.
    from jumplora_server.tracing.export import otlp_export
    from jumplora_server.tracing.otlp import OtlpTracer

    try:
        export = otlp_export(metrics.spans)
    except ValueError as error:
        raise StartupError(f"JUMPLORA_TRACES={settings.traces}: {error}") from error
    return OtlpTracer(export, version=VERSION, clock=clock)


def _watchdog(
    settings: Settings,
    lifecycle: Lifecycle,
    clock: Callable[[], float],
    loop: EngineLoop,
    others: tuple[Pulse, ...],
) -> Watchdog:
    def look() -> Look:
        glances = tuple(pulse.glance for pulse in (loop.pulse, *others))
        return Look(clock(), lifecycle.phase, loop.progress, glances)

    return Watchdog(look, Limits(settings.stall_seconds, settings.hang_exit_seconds))


def _measure_always(services: Services) -> None:
    """Join to the metrics what is asked anew for each page of them."""
    residency, stall_seconds = services.residency, services.settings.stall_seconds

    def stuck_seconds() -> dict[str, float]:
        glances = (pulse.glance for pulse in residency.pulses)
        return {g.name: g.seconds if is_stuck(g, stall_seconds) else 0.0 for g in glances}

    def residents() -> Iterator[Resident]:
        for status in residency.each_status():
            if status.state is State.READY and status.version is not None:
                nbytes = status.bytes_host + status.bytes_device
                yield Resident(status.task_id, nbytes, status.pinned)

    keys = services.keys

    def keys_fault() -> bool:
        return keys.fault is not None or is_stuck(keys.pulse.glance, stall_seconds)

    metrics, rows = services.metrics, services.limits.max_rows
    metrics.keys_fault(keys_fault)
    metrics.trouble(stuck_seconds, lambda: residency.store_fault is not None)
    metrics.residents(services.served_name, rows, residents, lambda: residency.free_bytes)


def _folding(settings: Settings, engine: AnyEngine) -> Folding:
    try:
        return Folding.of(engine, settings.fold, settings.fold_share, settings.adapter_budget_bytes)
    except ValueError as error:
        raise StartupError(str(error)) from error


def _log_generation(generation: Generation) -> None:
    if generation.left_to_requests:
        _log.info(
            "the backbone's folder sets %s: here a request or its adapter's manifest sets them",
            ", ".join(generation.left_to_requests),
        )
    if not generation.end_token_ids:
        _log.warning(
            "the backbone's folder has no eos_token_id where transformers looks for it "
            "(generation_config.json, if there is one): every answer has max_new_tokens tokens"
        )


def _templates(settings: Settings, tokenizer: Tokenizer) -> TemplateReader:
    try:
        return tokenizer.templates(plain=settings.control_tokens_in_text == "plain")
    except DataError as error:
        raise StartupError(
            f"{error}; JUMPLORA_CONTROL_TOKENS_IN_TEXT=read reads the control tokens in texts"
        ) from error


def _warm_up_prompt(tokenizer: Tokenizer, limits: EngineLimits) -> tuple[int, ...]:
    try:
        return tokenizer.encode(WARM_UP_TEXT, truncate_to=limits.max_source_tokens)
    except NoEmbedding:  # any tokens do that the backbone has
        return (tokenizer.eos_token_id,)


def _open_store(settings: Settings) -> Store:
    if not settings.store.exists():
        _log.warning("no store at %s: an empty one is made", settings.store)
    store = Store(settings.store, max_file_bytes=settings.max_adapter_bytes)
    if settings.store.exists() and not settings.store.is_dir():
        raise StartupError(f"the store {settings.store} is a file, not a folder")
    store.prepare()
    try:
        store.sweep(patience=Patience(SWEEP_SECONDS))
    except StoreError as error:  # a store that this server may only read is served too
        _log.warning("leftovers of interrupted changes stay in the store: %s", error)
    return store


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
