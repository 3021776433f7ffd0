"""In which order a server's parts are started and stopped."""

from __future__ import annotations

import asyncio
import logging

from starlette.concurrency import run_in_threadpool

from jumplora_server.api import at_start
from jumplora_server.loop.outbox import Delivery
from jumplora_server.services import Services

RESIDENCY_STOP_SECONDS = 10.0  # a load that is under way may end; a store that hangs does not
TRACES_STOP_SECONDS = 2.0  # for the last spans; a collector that hangs does not hold the end
_log = logging.getLogger(__name__)


async def start(services: Services, delivery: Delivery) -> None:
    """Start all parts; what the engine makes is delivered on this event loop."""
    delivery.bind(asyncio.get_running_loop())
    services.lag.start()
    services.loop.start()
    await run_in_threadpool(services.residency.start)
    await run_in_threadpool(at_start.log_without_effect, services)
    services.keys.start()
    services.referee.start()
    services.lifecycle.serve()
    services.watchdog.start()
    _log.info(
        "backbone %s (%s) as %s on %s; %d tasks in %s",
        services.served_name,
        services.backbone.fingerprint[:12],
        services.settings.dtype,
        services.settings.device,
        services.residency.tasks,
        services.settings.store,
    )


async def stop(services: Services, delivery: Delivery) -> None:
    """Stop all parts, also those that were never started."""
    services.lifecycle.drain()
    await services.referee.stop()
    # The HTTP server has let requests finish already: what still runs is cut off.
    await run_in_threadpool(services.loop.stop)
    patience = min(RESIDENCY_STOP_SECONDS, services.settings.shutdown_timeout)
    await run_in_threadpool(services.residency.stop, patience)
    await run_in_threadpool(services.keys.stop)
    await run_in_threadpool(services.watchdog.stop)
    await services.lag.stop()
    await run_in_threadpool(services.tracer.close, TRACES_STOP_SECONDS)
    delivery.bind(None)
