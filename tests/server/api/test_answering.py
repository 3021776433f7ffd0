"""A client that closes its connection while work is under way for it."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from starlette.requests import Request

from jumplora_server.api.answering import HungUp, unless_hung_up


def test_work_that_fails_after_the_hang_up_is_no_error_in_the_log() -> None:
    complaints: list[dict[str, Any]] = []

    async def fails_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("the sequence was cancelled") from None

    async def hang_up() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0)
            return {"type": "http.disconnect"}

        work = asyncio.gather(fails_when_cancelled(), fails_when_cancelled())
        with pytest.raises(HungUp):
            await unless_hung_up(Request({"type": "http"}, receive), work, 5.0)
        del work
        for _ in range(3):  # until the cancelled ones have ended
            await asyncio.sleep(0)
        gc.collect()

    asyncio.run(hang_up())
    gc.collect()
    assert complaints == []
