"""What the routes are given: the built parts of one server. Only `app` fills it.

The types are imported for checking alone, so that the API package depends on no engine code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anyio import CapacityLimiter

from jumplora_server.lanes import Lanes
from jumplora_server.options import RecentOptions
from jumplora_server.store_threads import StoreThreads

if TYPE_CHECKING:
    from jumplora_adapters.backbone import Backbone
    from jumplora_adapters.store import Store
    from jumplora_server.core import EngineLimits
    from jumplora_server.engine.tokenizer import TemplateReader, Tokenizer
    from jumplora_server.loop.loop import EngineLoop
    from jumplora_server.metrics.metrics import Metrics
    from jumplora_server.publishing import Publishing
    from jumplora_server.residency.residency import Residency
    from jumplora_server.settings import Settings
    from jumplora_server.watchdog import Phase, Watchdog

SCRAPES = 2  # at a time; more wait, for they share one page


@dataclass(slots=True)
class Lifecycle:
    """Whether new requests should be sent here; readiness says it."""

    phase: Phase = "starting"

    def drain(self) -> None:
        """Fail readiness; requests are still taken."""
        self.phase = "draining"


@dataclass(frozen=True, slots=True)
class Services:
    """One server's parts. `clock` is the loop's: deadlines are times on it.

    `scrapes` and `lanes` are shares of threads, for the metrics page and for what requests send:
    the common ones may all wait for a disk.
    """

    settings: Settings
    backbone: Backbone
    tokenizer: Tokenizer
    templates: TemplateReader
    store: Store
    metrics: Metrics
    residency: Residency
    publishing: Publishing
    loop: EngineLoop
    limits: EngineLimits
    prompts_per_request: int
    clock: Callable[[], float]
    watchdog: Watchdog
    lifecycle: Lifecycle
    reads: StoreThreads = field(default_factory=StoreThreads)
    scrapes: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(SCRAPES))
    lanes: Lanes = field(default_factory=Lanes)
    options: RecentOptions = field(default_factory=RecentOptions)

    @property
    def served_name(self) -> str:
        """The name of the backbone for clients."""
        return self.settings.served_name or self.backbone.name
