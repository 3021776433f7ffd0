"""Clients that cost little: prepared bytes, a connection a request, the status and the time of it.

A flood runs in processes of its own: the client that measures shares no interpreter with it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

_PATIENCE = 60.0  # seconds for one answer
_START_SECONDS = 60.0
_END_SECONDS = 120.0  # for the requests that a flood has open when it ends


@dataclass(frozen=True, slots=True)
class Reply:
    """`status` 0: no answer came. `seconds` count from when the request was due."""

    status: int
    seconds: float


def prepared(task: str, text: str, **parameters: object) -> bytes:
    """A request for /generate that closes its connection."""
    body = json.dumps({"task_id": task, "inputs": text, "parameters": parameters}).encode()
    head = (
        "POST /generate HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def with_key(request: bytes, key: str) -> bytes:
    """The same request, as the one who has that key sends it."""
    line, _, rest = request.partition(b"\r\n")
    return b"\r\n".join([line, f"authorization: Bearer {key}".encode(), rest])


async def ask(url: str, request: bytes) -> int:
    """Send prepared bytes, read to the end; the status, or 0."""
    place = urlsplit(url)
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            try:
                writer.write(request)
                words = (await reader.read()).split(b" ", 2)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return 0
    return int(words[1]) if len(words) > 2 else 0


async def at_a_rate(
    url: str, requests: Sequence[bytes], rate: float, seconds: float
) -> list[Reply]:
    """An open loop: one each 1 / rate seconds, in turn, whatever became of the others."""
    began = time.perf_counter()

    async def send(due: float, request: bytes) -> Reply:
        status = await ask(url, request)
        return Reply(status, time.perf_counter() - due)

    sent = []
    for n in range(int(rate * seconds)):
        due = began + n / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        sent.append(asyncio.create_task(send(due, requests[n % len(requests)])))
    return list(await asyncio.gather(*sent))


async def by_clients(
    url: str, requests: Sequence[bytes], clients: int, seconds: float
) -> list[Reply]:
    """A closed loop: each client asks again once it was answered."""
    replies: list[Reply] = []
    turns = itertools.cycle(requests)
    end = time.perf_counter() + seconds

    async def repeat() -> None:
        while (began := time.perf_counter()) < end:
            status = await ask(url, next(turns))
            replies.append(Reply(status, time.perf_counter() - began))

    await asyncio.gather(*(repeat() for _ in range(clients)))
    return replies


@dataclass(frozen=True, slots=True)
class Flood:
    """Requests in turn: `rate` a second, or, with a rate of 0, by `clients` that repeat."""

    requests: tuple[bytes, ...]
    rate: float = 0.0
    clients: int = 0

    async def run(self, url: str, seconds: float) -> list[Reply]:
        """Ask for `seconds`, and wait for what is open then."""
        if self.rate:
            return await at_a_rate(url, self.requests, self.rate, seconds)
        return await by_clients(url, self.requests, self.clients, seconds)


@contextmanager
def flooded(url: str, flood: Flood, seconds: float) -> Iterator[Callable[[], Counter[int]]]:
    """Run a flood beside the block; what is yielded waits for its end and counts statuses."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(url, flood, seconds, sending), daemon=True)
    process.start()
    sending.close()  # here, so that the end of the process is seen

    def counts() -> Counter[int]:
        if not receiving.poll(seconds + _END_SECONDS):
            raise TimeoutError("the flood did not end")
        found: Counter[int] = receiving.recv()
        return found

    try:
        if not receiving.poll(_START_SECONDS):
            raise TimeoutError("the flood did not begin")
        receiving.recv()
        yield counts
    finally:
        process.kill()
        process.join()


def _run(url: str, flood: Flood, seconds: float, sending: Connection) -> None:
    sending.send("begun")
    sending.send(Counter(reply.status for reply in asyncio.run(flood.run(url, seconds))))
