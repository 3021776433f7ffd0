"""What the routes are given: the built parts of one server. Only `app` fills it.

The types are imported for checking alone, so that the API package depends on no engine code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anyio import CapacityLimiter

from jumplora_server.access.live_keys import LiveKeys
from jumplora_server.changes import Changes
from jumplora_server.events import Events
from jumplora_server.lag import LoopLag
from jumplora_server.lanes import Lanes
from jumplora_server.options import RecentOptions
from jumplora_server.store_threads import StoreThreads
from jumplora_server.tracing.tracer import Tracer
from jumplora_server.version import VERSION

if TYPE_CHECKING:
    from jumplora_adapters.backbone import Backbone
    from jumplora_adapters.store import Store
    from jumplora_server.access.quotas import Quotas
    from jumplora_server.core import EngineLimits
    from jumplora_server.engine.tokenizer import TemplateReader, Tokenizer
    from jumplora_server.loop.loop import EngineLoop
    from jumplora_server.metrics.metrics import Metrics
    from jumplora_server.publishing import Publishing
    from jumplora_server.residency.residency import Residency
    from jumplora_server.settings import Settings
    from jumplora_server.staged.referee import Referee
    from jumplora_server.staged.stages import Stages
    from jumplora_server.watchdog import Phase, Watchdog

SCRAPES = 2  # at a time; more wait, for they share one page


def served_name(settings: Settings, backbone: Backbone) -> str:
    """The name of the backbone for clients: by default its folder's."""
    return settings.served_name or backbone.name


@dataclass(slots=True)
class Lifecycle:
    """Whether new requests should be sent here; readiness says it."""

    events: Events
    phase: Phase = "starting"

    def serve(self) -> None:
        """All parts run."""
        self.phase = "serving"
        self.events.add("server", f"The server, version {VERSION}, has started.")

    def drain(self) -> None:
        """Fail readiness; requests are still taken."""
        if self.phase != "draining":
            self.events.add(
                "server", "The server is shutting down: it finishes the requests that it has."
            )
        self.phase = "draining"


@dataclass(frozen=True, slots=True)
class Hardware:
    """What computes: the native kernels' instruction set or torch, and the backbone's bytes."""

    kernels: str
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class Services:
    """One server's parts. `clock` is the loop's: deadlines and `began`, the server's start, are
    times on it.

    `scrapes` and `lanes` are shares of threads, for the metrics page and for what requests send:
    the common ones may all wait for a disk. `changes` reads what only people look at, so it has
    threads of its own and none of those of `reads` that requests wait for.
    """

    settings: Settings
    backbone: Backbone
    tokenizer: Tokenizer
    templates: TemplateReader
    store: Store
    metrics: Metrics
    residency: Residency
    publishing: Publishing
    stages: Stages
    referee: Referee
    loop: EngineLoop
    quotas: Quotas
    limits: EngineLimits
    hardware: Hardware
    prompts_per_request: int
    clock: Callable[[], float]
    began: float
    watchdog: Watchdog
    lifecycle: Lifecycle
    events: Events
    changes: Changes
    tracer: Tracer
    lag: LoopLag
    keys: LiveKeys
    reads: StoreThreads = field(default_factory=StoreThreads)
    scrapes: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(SCRAPES))
    lanes: Lanes = field(default_factory=Lanes)
    options: RecentOptions = field(default_factory=RecentOptions)

    @property
    def served_name(self) -> str:
        """The name of the backbone for clients."""
        return served_name(self.settings, self.backbone)

    @property
    def backbone_names(self) -> frozenset[str]:
        """What no task may be called, for it means the bare backbone."""
        return frozenset({self.served_name, self.settings.base_name})
