"""The event loop's lag, measured by a task on it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from jumplora_server.lag import INTERVAL_SECONDS, LoopLag
from serving import connected, make_site, wait_for


def test_a_loop_that_stands_still_is_late() -> None:
    async def stand_still() -> list[float]:
        seen: list[float] = []
        came = asyncio.Event()

        def observe(seconds: float) -> None:
            seen.append(seconds)
            came.set()

        lag = LoopLag(observe)
        lag.start()
        await asyncio.sleep(0)
        time.sleep(INTERVAL_SECONDS + 0.2)  # what nothing on a loop should do
        await asyncio.wait_for(came.wait(), 20)
        await lag.stop()
        return seen

    seen = asyncio.run(stand_still())
    assert seen[0] >= 0.2


def test_it_may_be_stopped_before_it_was_started() -> None:
    asyncio.run(LoopLag(lambda seconds: None).stop())


def test_a_server_measures_it(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    with connected(site) as http:
        wait_for(lambda: site.metric("jumplora_event_loop_lag_seconds_count") >= 2)
        assert "jumplora_event_loop_lag_seconds_bucket" in http.get("/metrics").text
    assert site.parts.services.lag._task is None
