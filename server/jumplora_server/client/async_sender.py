"""How `AsyncClient` sends: with httpx, tries, streams and tasks for a batch. Knows no one call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import httpx

from jumplora_server.api.schemas import StreamEvent
from jumplora_server.client import calls, wire
from jumplora_server.client.address import Address
from jumplora_server.client.answers import Answered, Row
from jumplora_server.client.batches import Came, Plan, Steps, checked_rows
from jumplora_server.client.calls import Answer, Call
from jumplora_server.client.errors import RequestFailed
from jumplora_server.client.limits import Body, Until
from jumplora_server.client.read_ahead import Begun, in_order
from jumplora_server.client.retries import Patience, Tries
from jumplora_server.client.streams import Events

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[object]]


class AsyncSender:
    """Sends calls to one address, in one event loop. Raises RequestFailed."""

    def __init__(self, address: Address, patience: Patience, sleep: Sleep) -> None:
        self.address = address
        self.patience = patience
        self._sleep = sleep
        self._http = httpx.AsyncClient(base_url=address.url, headers=address.headers)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(
        self,
        call: Call[T],
        content: Callable[[], Iterator[bytes]] | None = None,
        *,
        patience: Patience | None = None,
    ) -> T:
        """The result of a call, sent as often as its patience allows.

        `content` makes the body anew for each try, where it is not the call's own.
        """
        tries = Tries(patience or self.patience, call.repeat)
        while True:
            try:
                answer = await self._answer(call, content, self._until(tries.seconds_left))
                return call.result(answer, self.address.url)
            except RequestFailed as failure:
                wait = tries.wait_after(failure)
            await self._sleep(wait)

    def _until(self, seconds: float) -> Until:
        return Until(seconds, self.patience.clock)

    async def _answer(
        self, call: Call[Any], content: Callable[[], Iterator[bytes]] | None, until: Until
    ) -> Answer:
        sent = None if content is None else _read_on_threads(content())
        async with self._opened(call, sent, until) as response:
            return await self._read(call, response, until)

    async def _read(self, call: Call[Any], response: httpx.Response, until: Until) -> Answer:
        body = Body()
        try:
            async with asyncio.timeout(until.left):
                async for piece in response.aiter_raw():
                    body.add(piece)
        except ValueError as error:
            raise call.foreign(response.status_code, self.address.url, error) from error
        return Answer(response.status_code, response.headers, body.whole())

    @asynccontextmanager
    async def _opened(
        self, call: Call[Any], content: AsyncIterator[bytes] | None, until: Until
    ) -> AsyncIterator[httpx.Response]:
        with wire.no_answer(call, self.address.url, until):
            request = wire.request_for(self._http, call, content, until)
            async with asyncio.timeout(until.left):
                response = await self._http.send(request, stream=True)
            try:
                yield response
            finally:
                await response.aclose()

    async def events(self, call: Call[StreamEvent]) -> AsyncGenerator[StreamEvent, None]:
        """The events of a stream."""
        url = self.address.url
        tries, events = Tries(self.patience, call.repeat), Events(call, url)
        while True:
            until = self._until(tries.seconds_left)
            try:
                async with self._opened(call, None, until) as response:
                    if response.status_code != 200:
                        raise call.refused(await self._read(call, response, until), url)
                    pieces = response.aiter_raw()
                    while (piece := await _next(pieces, until)) is not None:
                        for event in events.read(piece):
                            yield event
                            until.renew(self.patience.timeout)
                events.end()
                return
            except RequestFailed as failure:
                if events.has_begun:
                    raise
                wait = tries.wait_after(failure)
            await self._sleep(wait)

    async def batch(self, rows: Iterable[Row | str], plan: Plan) -> AsyncGenerator[Answered, None]:
        """The rows, in their order, each with what came of it."""
        rows = checked_rows(rows)
        plan = plan.within((await self.send(calls.info())).max_client_batch_size)
        places = asyncio.Semaphore(plan.concurrency)
        running = set[asyncio.Task[list[Answered]]]()

        def begin(steps: Steps) -> asyncio.Task[list[Answered]]:
            task = asyncio.create_task(self._take(steps, places))
            running.add(task)
            task.add_done_callback(ended)
            return task

        def ended(task: asyncio.Task[list[Answered]]) -> None:
            running.discard(task)
            if not task.cancelled():
                task.exception()  # seen: another one's may have ended the batch

        def begun(some: list[Row | str]) -> list[Begun[Answered]]:
            block = plan.block(some)
            tasks = [begin(chunk.steps()) for chunk in block.chunks]
            return [partial(_answered, tasks[number], place) for number, place in block.places]

        try:
            block = plan.size * plan.concurrency
            async with aclosing(in_order(rows, begun, block, 2 * block)) as answers:
                async for _, answered in answers:
                    yield answered
        finally:
            left = [*running]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _take(self, steps: Steps, places: asyncio.Semaphore) -> list[Answered]:
        """Make the calls that `steps` asks for, until it has its result."""
        patience = self.patience.as_long_as_possible()  # its own requests fill the queue
        came: Came | None = None
        async with places:
            while True:
                try:
                    call = next(steps) if came is None else steps.send(came)
                except StopIteration as end:
                    done: list[Answered] = end.value
                    return done
                try:
                    came = await self.send(call, patience=patience)
                except RequestFailed as failure:
                    came = failure


async def _answered(task: asyncio.Task[list[Answered]], place: int) -> Answered:
    return (await task)[place]


async def _next(pieces: AsyncIterator[bytes], until: Until) -> bytes | None:
    async with asyncio.timeout(until.left):
        return await anext(pieces, None)


async def _read_on_threads(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece
