"""Both clients behind one face, so that a test states once what both have to do."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from jumplora_server.client import AsyncClient, Client

Kind = Literal["sync", "async"]
KINDS: tuple[Kind, ...] = ("sync", "async")


class Awaited:
    """An AsyncClient whose calls end before they return, and whose generators are iterators."""

    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            made = method(*arguments, **options)
            if inspect.isasyncgen(made):
                return self._each(made)
            return self._runner.run(made)

        return call

    def _each(self, made: Any) -> Iterator[Any]:
        async def step() -> Any:
            return await anext(made)

        try:
            while True:
                try:
                    item = self._runner.run(step())
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self._runner.run(made.aclose())


@contextmanager
def client_of(
    kind: Kind, url: str, *, slept: Callable[[float], object] | None = None, **options: Any
) -> Iterator[Any]:
    """A client of `kind`. `slept` hears how long it would have waited; None: it does wait."""
    if kind == "sync":
        waits: dict[str, Any] = {} if slept is None else {"sleep": slept}
        with Client(url, **waits, **options) as client:
            yield client
        return

    async def sleep(seconds: float) -> None:
        if slept is None:
            await asyncio.sleep(seconds)
        else:
            slept(seconds)

    with asyncio.Runner() as runner:
        awaited = AsyncClient(url, sleep=sleep, **options)
        try:
            yield Awaited(awaited, runner)
        finally:
            runner.run(awaited.close())
