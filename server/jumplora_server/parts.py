"""Single parts of a server, each made from the settings. `app` joins them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, Protocol

from jumplora_adapters.errors import DataError, StoreError
from jumplora_adapters.generation import Generation
from jumplora_adapters.store import Store
from jumplora_adapters.store_lock import Patience
from jumplora_server.core import EngineLimits, NoEmbedding
from jumplora_server.engine.tokenizer import TemplateReader, Tokenizer
from jumplora_server.loop.loop import EngineLoop, StepEngine
from jumplora_server.metrics.gateway import Resident
from jumplora_server.metrics.metrics import Metrics
from jumplora_server.pulse import Pulse
from jumplora_server.residency.engine import AdapterEngine
from jumplora_server.residency.entries import State
from jumplora_server.residency.folding import Folding
from jumplora_server.services import Lifecycle, Services
from jumplora_server.settings import Settings
from jumplora_server.staged.judging import Floors
from jumplora_server.tracing.tracer import NoTraces, Tracer
from jumplora_server.version import VERSION
from jumplora_server.watchdog import Limits, Look, Watchdog, is_stuck

SWEEP_SECONDS = 1.0  # what interrupted changes left does no harm, so a start waits no longer
# What the extra `traces` brings.
TRACES_NEED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
WARM_UP_TEXT = "Task Instruction: warm up\nText: The first run is slow.\nAnswer:"
_log = logging.getLogger(__name__)


class StartupError(Exception):
    """This machine cannot run what the settings ask for."""


class AnyEngine(StepEngine, AdapterEngine[Any], Protocol):
    """The real engine, or a test's."""

    @property
    def kernels(self) -> str:
        """What computes: an instruction set, torch."""


def floors_of(settings: Settings) -> Floors:
    """What a staged version is held against."""
    return Floors(
        settings.stage_min_requests,
        settings.stage_error_points,
        settings.stage_latency_ratio,
        settings.stage_latency_seconds,
    )


def check_traces(settings: Settings) -> None:
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


def tracer_of(settings: Settings, metrics: Metrics, clock: Callable[[], float]) -> Tracer:
    """What traces go through. Raises StartupError."""
    if settings.traces == "off":
        return NoTraces()
    check_traces(settings)
    # Late: an extra, and 0.05 s that servers without traces need not wait.
    from jumplora_server.tracing.export import otlp_export
    from jumplora_server.tracing.otlp import OtlpTracer

    try:
        export = otlp_export(metrics.spans)
    except ValueError as error:
        raise StartupError(f"JUMPLORA_TRACES={settings.traces}: {error}") from error
    return OtlpTracer(export, version=VERSION, clock=clock)


def watchdog_of(
    settings: Settings,
    lifecycle: Lifecycle,
    clock: Callable[[], float],
    loop: EngineLoop,
    others: tuple[Pulse, ...],
) -> Watchdog:
    """The watchdog of the loop's thread and the others."""

    def look() -> Look:
        glances = tuple(pulse.glance for pulse in (loop.pulse, *others))
        return Look(clock(), lifecycle.phase, loop.progress, glances)

    return Watchdog(look, Limits(settings.stall_seconds, settings.hang_exit_seconds))


def measure_always(services: Services) -> None:
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


def folding_of(settings: Settings, engine: AnyEngine) -> Folding:
    """Which ancestors are merged. Raises StartupError."""
    try:
        return Folding.of(engine, settings.fold, settings.fold_share, settings.adapter_budget_bytes)
    except ValueError as error:
        raise StartupError(str(error)) from error


def log_generation(generation: Generation) -> None:
    """Log what the backbone's folder says of generation and is not followed."""
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


def templates_of(settings: Settings, tokenizer: Tokenizer) -> TemplateReader:
    """How control tokens in texts are read. Raises StartupError."""
    try:
        return tokenizer.templates(plain=settings.control_tokens_in_text == "plain")
    except DataError as error:
        raise StartupError(
            f"{error}; JUMPLORA_CONTROL_TOKENS_IN_TEXT=read reads the control tokens in texts"
        ) from error


def warm_up_prompt(tokenizer: Tokenizer, limits: EngineLimits) -> tuple[int, ...]:
    """What each version is tried out with."""
    try:
        return tokenizer.encode(WARM_UP_TEXT, truncate_to=limits.max_source_tokens)
    except NoEmbedding:  # any tokens do that the backbone has
        return (tokenizer.eos_token_id,)


def open_store(settings: Settings) -> Store:
    """The store, made where there is none. Raises StartupError, StoreError."""
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
