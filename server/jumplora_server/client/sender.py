"""How `Client` sends: with httpx, tries, streams and threads for a batch. Knows no one call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from jumplora_server.api.schemas import StreamEvent
from jumplora_server.client import calls, wire
from jumplora_server.client.address import Address
from jumplora_server.client.answers import Answered, Row
from jumplora_server.client.batches import Block, Came, Plan, Steps, one_ahead
from jumplora_server.client.calls import Answer, Call
from jumplora_server.client.errors import RequestFailed
from jumplora_server.client.limits import Until, limit_reads, whole
from jumplora_server.client.retries import Patience, Tries
from jumplora_server.client.streams import Events

T = TypeVar("T")
Sleep = Callable[[float], object]


class Sender:
    """Sends calls to one address; threads may share it. Raises RequestFailed."""

    def __init__(self, address: Address, patience: Patience, sleep: Sleep) -> None:
        self.address = address
        self.patience = patience
        self._sleep = sleep
        self._http = httpx.Client(base_url=address.url, headers=address.headers)
        limit_reads(self._http)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(
        self,
        call: Call[T],
        content: Callable[[], Iterable[bytes]] | None = None,
        *,
        patience: Patience | None = None,
        sleep: Sleep | None = None,
    ) -> T:
        """The result of a call, sent as often as its patience allows.

        `content` makes the body anew for each try, where it is not the call's own.
        """
        tries = Tries(patience or self.patience, call.repeat)
        while True:
            try:
                answer = self._answer(call, content, self._until(tries.seconds_left))
                return call.result(answer, self.address.url)
            except RequestFailed as failure:
                wait = tries.wait_after(failure)
            (sleep or self._sleep)(wait)

    def _until(self, seconds: float) -> Until:
        return Until(seconds, self.patience.clock)

    def _answer(
        self, call: Call[Any], content: Callable[[], Iterable[bytes]] | None, until: Until
    ) -> Answer:
        def in_time(pieces: Iterable[bytes]) -> Iterator[bytes]:
            for piece in pieces:
                if until.is_over:
                    raise wire.too_late(call, self.address.url, until.seconds)
                yield piece

        sent = None if content is None else in_time(content())
        with self._opened(call, sent, until) as response:
            return self._read(call, response)

    def _read(self, call: Call[Any], response: httpx.Response) -> Answer:
        try:
            body = whole(response.iter_raw())
        except ValueError as error:
            raise call.foreign(response.status_code, self.address.url, error) from error
        return Answer(response.status_code, response.headers, body)

    @contextmanager
    def _opened(
        self, call: Call[Any], content: Iterable[bytes] | None, until: Until
    ) -> Iterator[httpx.Response]:
        with wire.no_answer(call, self.address.url, until):
            request = wire.request_for(self._http, call, content, until)
            response = self._http.send(request, stream=True)
            try:
                yield response
            finally:
                response.close()

    def events(self, call: Call[StreamEvent]) -> Generator[StreamEvent, None, None]:
        """The events of a stream."""
        url = self.address.url
        tries, events = Tries(self.patience, call.repeat), Events(call, url)
        while True:
            until = self._until(tries.seconds_left)
            try:
                with self._opened(call, None, until) as response:
                    if response.status_code != 200:
                        raise call.refused(self._read(call, response), url)
                    for piece in response.iter_raw():
                        for event in events.read(piece):
                            yield event
                            until.renew(self.patience.timeout)
                events.end()
                return
            except RequestFailed as failure:
                if events.has_begun:
                    raise
                wait = tries.wait_after(failure)
            self._sleep(wait)

    def batch(self, rows: Iterable[Row | str], plan: Plan) -> Generator[Answered, None, None]:
        """The rows, in their order, each with what came of it."""
        plan = plan.within(self.send(calls.info()).max_client_batch_size)
        stopped = threading.Event()
        with ThreadPoolExecutor(plan.concurrency, thread_name_prefix="batch") as pool:

            def begun() -> Iterator[tuple[Block, list[Future[list[Answered]]]]]:
                for block in plan.blocks(rows):
                    chunks = block.chunks
                    yield block, [pool.submit(self._take, each.steps(), stopped) for each in chunks]

            try:
                for block, futures in one_ahead(begun()):
                    for number, place in block.places:
                        yield futures[number].result()[place]
            finally:
                stopped.set()
                pool.shutdown(cancel_futures=True)

    def _take(self, steps: Steps, stopped: threading.Event) -> list[Answered]:
        """Make the calls that `steps` asks for, until it has its result."""

        def sleep(seconds: float) -> None:
            if stopped.wait(seconds):
                raise CancelledError

        patience = self.patience.as_long_as_possible()  # its own requests fill the queue
        came: Came | None = None
        while not stopped.is_set():
            try:
                call = next(steps) if came is None else steps.send(came)
            except StopIteration as end:
                done: list[Answered] = end.value
                return done
            try:
                came = self.send(call, patience=patience, sleep=sleep)
            except RequestFailed as failure:
                came = failure
        raise CancelledError
