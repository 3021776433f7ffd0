"""Rows answered side by side, and handed on in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing

from jumplora_server.batch.results import Failure, Outcome
from jumplora_server.batch.rows import Question
from jumplora_server.client.read_ahead import Begun
from jumplora_server.client.read_ahead import in_order as in_order_of


async def in_order(
    rows: Iterator[Question], answer: Callable[[Question], Awaitable[Outcome]], window: int
) -> AsyncGenerator[tuple[Question, Outcome]]:
    """Each row with its outcome; at most `window` of them are read and not handed on yet.

    What `answer` raises ends it. Rows that have a fault are not asked.
    """
    running = set[asyncio.Task[Outcome]]()

    def begin(some: list[Question]) -> list[Begun[Outcome]]:
        return [_result_of(begun(row)) for row in some]

    def begun(row: Question) -> asyncio.Task[Outcome]:
        task = asyncio.create_task(_outcome(row, answer))
        running.add(task)
        task.add_done_callback(running.discard)
        return task

    try:
        async with aclosing(in_order_of(rows, begin, 1, window)) as outcomes:
            async for row, outcome in outcomes:
                yield row, outcome
    finally:
        left = [*running]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _result_of(task: asyncio.Task[Outcome]) -> Begun[Outcome]:
    async def result() -> Outcome:
        return await task

    return result


async def _outcome(row: Question, answer: Callable[[Question], Awaitable[Outcome]]) -> Outcome:
    if row.fault is not None:
        return Failure("invalid_row", row.fault)
    return await answer(row)
