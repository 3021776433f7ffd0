"""Rows answered side by side, and handed on in their order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

from jumplora_server.batch.results import Failure, Outcome
from jumplora_server.batch.rows import Question


async def in_order(
    rows: Iterator[Question], answer: Callable[[Question], Awaitable[Outcome]], window: int
) -> AsyncGenerator[tuple[Question, Outcome]]:
    """Each row with its outcome; at most `window` of them are read and not handed on yet.

    What `answer` raises ends it. Rows that have a fault are not asked.
    """
    begun: deque[tuple[Question, asyncio.Future[Outcome]]] = deque()
    try:
        for row in rows:
            begun.append((row, asyncio.ensure_future(_outcome(row, answer))))
            if len(begun) < window:
                continue
            yield await _first(begun)
            while begun and begun[0][1].done():
                yield await _first(begun)
        while begun:
            yield await _first(begun)
    finally:
        left = [asked for _, asked in begun]
        for asked in left:
            asked.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _first(
    begun: deque[tuple[Question, asyncio.Future[Outcome]]],
) -> tuple[Question, Outcome]:
    row, asked = begun[0]
    outcome = await asked
    begun.popleft()  # only now: where the wait is cancelled, so is what is asked
    return row, outcome


async def _outcome(row: Question, answer: Callable[[Question], Awaitable[Outcome]]) -> Outcome:
    if row.fault is not None:
        return Failure("invalid_row", row.fault)
    return await answer(row)
