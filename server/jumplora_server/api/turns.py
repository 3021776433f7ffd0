"""Long work on the event loop, in turns: other requests wait no longer than one of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import TypeVar

TURN_SECONDS = 0.001
T = TypeVar("T")


async def in_turns(each: Iterable[T], seconds: float = TURN_SECONDS) -> list[T]:
    """All of them. Once they took `seconds`, others get their turn: not after a number of them, for
    what one takes depends on what it is about and on the machine."""
    made = []
    ends = time.perf_counter() + seconds
    for one in each:
        made.append(one)
        if time.perf_counter() >= ends:
            await asyncio.sleep(0)
            ends = time.perf_counter() + seconds
    return made
