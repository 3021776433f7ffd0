"""Rows that an asynchronous batch reads while it asks: a producer may be slower than a request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing

from jumplora_server.client import AsyncClient
from small_http import http_server
from small_lists import Server


def test_rows_that_come_slowly_leave_at_once_and_cost_no_other_its_answer() -> None:
    """The producer waits for the answers to its first rows, longer than a request may take."""
    came = threading.Event()

    def rows() -> Iterator[str]:
        yield "a"
        yield "b"
        assert came.wait(20)
        came.clear()
        assert not came.wait(1.0)  # longer than the timeout
        yield "c"

    async def main(url: str) -> list[str]:
        texts = []
        async with AsyncClient(url, timeout=0.8, retries=0) as client:
            async for answered in client.batch(rows(), task="a", concurrency=2):
                texts.append(answered.text)
                if len(texts) == 2:
                    came.set()
        return texts

    with http_server(Server(concurrency=2)) as url:
        assert asyncio.run(main(url)) == ["A", "B", "C"]


def test_leaving_does_not_wait_for_a_silent_producer() -> None:
    silent = threading.Event()

    def rows() -> Iterator[str]:
        yield "a"
        assert silent.wait(60)

    async def main(url: str) -> None:
        async with (
            AsyncClient(url) as client,
            aclosing(client.batch(rows(), task="a")) as answers,
        ):
            assert (await anext(answers)).text == "A"

    try:
        with http_server(Server()) as url:
            asyncio.run(asyncio.wait_for(main(url), 20))
    finally:
        silent.set()
