"""The client for programs with an event loop. `calls` says what is sent."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from jumplora_server.api.adapter_schemas import AdapterDetail, AdapterSummary, PutResult
from jumplora_server.api.overview_schemas import Order, Overview, SortKey
from jumplora_server.api.schemas import GenerateResponse, Info, StreamEvent
from jumplora_server.client import calls, uploads
from jumplora_server.client.address import Address
from jumplora_server.client.answers import Answered, Choice, Row
from jumplora_server.client.async_sender import AsyncSender
from jumplora_server.client.batches import Plan
from jumplora_server.client.errors import RequestFailed
from jumplora_server.client.retries import Patience
from jumplora_server.client.streams import async_texts_of

Parameters = Mapping[str, object]


class AsyncClient:
    """`Client` for asyncio: the same arguments, methods and errors, and calls are awaited.

        async with AsyncClient("http://127.0.0.1:8000") as client:
            answer = await client.generate("agnews", "The striker scored twice.")
            async for piece in client.stream_text("register", "my fellow citizens"):
                print(piece, end="")

    Cancelling a call, also by asyncio.timeout, hangs up, and the server ends its generation. A
    change that began is finished there.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        timeout: float = 120.0,
        retries: int = 2,
        max_wait: float = 30.0,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        fraction: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        patience = Patience(retries, max_wait, timeout, fraction, clock)
        self._sender = AsyncSender(Address.of(url, key), patience, sleep)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._sender.address.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._sender.close()

    async def generate(
        self,
        task: str | None,
        text: str | None = None,
        *,
        inputs: str | None = None,
        parameters: Parameters | None = None,
    ) -> GenerateResponse:
        """Answer one text or one whole prompt: `Client.generate`."""
        return await self._sender.send(calls.generate(task, text, inputs, parameters))

    async def generate_all(
        self,
        task: str | None,
        text: Sequence[str] | None = None,
        *,
        inputs: Sequence[str] | None = None,
        parameters: Parameters | None = None,
    ) -> list[GenerateResponse]:
        """Answer a list of prompts in one request: `Client.generate_all`."""
        return await self._sender.send(calls.generate_all(task, text, inputs, parameters))

    async def choose(
        self,
        task: str | None,
        text: str | None = None,
        options: Sequence[str] | None = None,
        *,
        inputs: str | None = None,
        min_probability: float | None = None,
        min_mass: float | None = None,
    ) -> Choice:
        """Which of the options a text is: `Client.choose`."""
        return await self._sender.send(
            calls.choose(task, text, inputs, options, min_probability, min_mass)
        )

    def stream(
        self,
        task: str | None,
        text: str | None = None,
        *,
        inputs: str | None = None,
        parameters: Parameters | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        """Answer token by token, for `async for`: `Client.stream`.

        Leaving the loop early cancels the rest once the generator is closed. `contextlib.aclosing`
        closes it at once, the event loop a little later.
        """
        return self._sender.events(calls.stream(task, text, inputs, parameters))

    def stream_text(
        self,
        task: str | None,
        text: str | None = None,
        *,
        inputs: str | None = None,
        parameters: Parameters | None = None,
    ) -> AsyncGenerator[str, None]:
        """The pieces of text of `stream` alone, for `async for`: `Client.stream_text`."""
        return async_texts_of(self.stream(task, text, inputs=inputs, parameters=parameters))

    def batch(
        self,
        rows: Iterable[Row | str],
        *,
        task: str | None = None,
        parameters: Parameters | None = None,
        concurrency: int = 4,
    ) -> AsyncGenerator[Answered, None]:
        """Answer any number of rows, in their order, for `async for`: `Client.batch`.

        `rows` is an ordinary iterable. A thread of its own reads it, so it may wait for a pipe:
        what was read is sent all the same. Closing the generator cancels what is in work.
        """
        return self._sender.batch(rows, Plan(concurrency, task, parameters))

    async def adapters(self) -> list[AdapterSummary]:
        """All registered tasks, those that the key may see."""
        return await self._sender.send(calls.adapters())

    async def adapter(self, task: str) -> AdapterDetail:
        """One task with its manifest and versions."""
        return await self._sender.send(calls.adapter(task))

    async def publish(
        self,
        task: str,
        path: str | Path,
        *,
        if_match: str | None = None,
        new: bool = False,
        stage: float | None = None,
        on_sent: uploads.OnSent | None = None,
    ) -> PutResult:
        """Publish an adapter file, a PEFT folder or an archive of one: `Client.publish`.

        `on_sent` is called on the threads that read the file.
        """
        async with uploads.opened_on_threads(Path(path)) as upload:
            call = calls.publish(task, upload.sha256, upload.length, if_match, new=new, stage=stage)
            return await self._sender.send(call, partial(upload.chunks, on_sent))

    async def rollback(self, task: str, version: str | None = None) -> AdapterDetail:
        """Make an older version current again; None: the one before: `Client.rollback`."""
        return await self._sender.send(calls.rollback(task, version))

    async def stage(
        self, task: str, version: str, share: float, promote_after: float | None = None
    ) -> AdapterDetail:
        """Give a stored version a share (0 to 1) of the requests: `Client.stage`."""
        return await self._sender.send(calls.stage(task, version, share, promote_after))

    async def promote(self, task: str, version: str | None = None) -> AdapterDetail:
        """Make the staged version current: `Client.promote`."""
        return await self._sender.send(calls.promote(task, version))

    async def unstage(
        self, task: str, version: str | None = None, *, note: str = ""
    ) -> AdapterDetail:
        """Give the staged version no requests any more: `Client.unstage`."""
        return await self._sender.send(calls.unstage(task, version, note))

    async def alias(self, task: str, name: str, version: str | None) -> AdapterDetail:
        """Call a version by a name; None takes the name away: `Client.alias`."""
        return await self._sender.send(calls.alias(task, name, version))

    async def load(self, task: str) -> AdapterDetail:
        """Load the adapter now; a version that failed is tried again."""
        return await self._sender.send(calls.load(task))

    async def pin(
        self, task: str, pinned: Literal["pinned", "unpinned"] = "pinned"
    ) -> AdapterDetail:
        """Keep the adapter in memory, or no longer."""
        return await self._sender.send(calls.pin(task, pinned))

    async def remove(self, task: str) -> None:
        """Remove a task with all its versions: `Client.remove`."""
        await self._sender.send(calls.remove(task))

    async def overview(
        self,
        search: str | None = None,
        *,
        sort: SortKey | None = None,
        order: Order | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> Overview:
        """One look at the server: `Client.overview`."""
        return await self._sender.send(calls.overview(search, sort, order, offset, limit))

    async def info(self) -> Info:
        """The backbone and the limits of the server."""
        return await self._sender.send(calls.info())

    async def is_ready(self) -> bool:
        """Whether the server wants requests now. Raises nothing, and asks once."""
        try:
            await self._sender.send(
                calls.readiness(), patience=replace(self._sender.patience, retries=0)
            )
        except RequestFailed:
            return False
        return True

    async def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until the server wants requests. Raises RequestFailed after `timeout` seconds."""
        patience = replace(
            self._sender.patience, retries=sys.maxsize, max_wait=1.0, timeout=timeout, polls=True
        )
        await self._sender.send(calls.readiness(), patience=patience)
