"""Rows answered by a server, several requests at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from jumplora_server.batch.results import Failure, Outcome
from jumplora_server.batch.rows import Row
from jumplora_server.batch.run import Answers
from jumplora_server.batch.window import in_order
from jumplora_server.client import Client, RequestFailed


@asynccontextmanager
async def remote(client: Client, concurrency: int) -> AsyncGenerator[Answers]:
    """Yields what answers rows. A server that is gone or refuses the key ends the run."""
    with ThreadPoolExecutor(concurrency, thread_name_prefix="batch") as pool:

        async def answer(row: Row) -> Outcome:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(pool, _answer, client, row)

        def answers(rows: Iterator[Row], /) -> AsyncGenerator[tuple[Row, Outcome]]:
            return in_order(rows, answer, concurrency)

        yield answers


def _answer(client: Client, row: Row) -> Outcome:
    body: dict[str, Any] = dict(row.body)
    try:
        return client.generate(body.pop("task_id"), **body)
    except RequestFailed as error:
        if error.status in (0, 401, 403):
            raise
        return Failure(error.code, error.message)
