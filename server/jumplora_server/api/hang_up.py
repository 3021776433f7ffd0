"""Work that stops being waited for when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request

from jumplora_server.errors import DeadlineExceeded

T = TypeVar("T")


class HungUp(Exception):
    """The client closed the connection before the answer."""


async def unless_hung_up(request: Request, work: Awaitable[T], seconds: float) -> T:
    """The result of `work`. The request's body must have been read.

    Raises HungUp, and DeadlineExceeded after `seconds`: a last resort, for the engine ends
    sequences at their deadline itself unless a step hangs. `work` is cancelled then.
    """
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait(
            {working, listening}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if working.done():
            return working.result()
        if listening.done():
            raise HungUp
        raise DeadlineExceeded(f"no answer within {seconds:.1f} s")
    finally:
        # How cancelled work ends is of no interest, and asyncio logs what is never looked at.
        working.add_done_callback(look_at)
        working.cancel()
        listening.cancel()


def look_at(done: asyncio.Future[T]) -> None:
    """A done callback that keeps asyncio from logging an error that is of no interest."""
    if not done.cancelled():
        done.exception()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
