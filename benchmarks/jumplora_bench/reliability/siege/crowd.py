"""A process that holds connections which cost a server and ask for nothing: `crowd URL KIND COUNT`.

Prints when it begins, how many could be opened, then the first status that came back on each
connection, as they come. Ends when it is killed.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from jumplora_bench.reliability.siege.senders import say
from jumplora_bench.reliability.siege.shot import TASKS, head, post

CONNECTING = 100  # at the same time: less than a backlog, so that no attempt is lost
_MIB = 1024**2
_TINY_BUFFER = 1  # the system makes it the least it has
_HALF_HEAD = b"POST /generate HTTP/1.1\r\nhost: siege\r\ncontent-ty"
_BODY_HEAD = head(
    "POST", "/generate", [("content-type", "application/json"), ("content-length", str(_MIB))]
)
_PREFIX = b'{"task_id": "agnews", "text": "'
_UNFINISHED = _BODY_HEAD + _PREFIX + b"a" * (_MIB - len(_PREFIX) - 1)

Member = Callable[[socket.socket, int], Awaitable[None]]


async def idle(connection: socket.socket, turn: int) -> None:
    """Nothing at all, or nothing after one answered request."""
    if turn % 2:
        await _send(connection, head("GET", "/livez"))
    await _read(connection)


async def half_open(connection: socket.socket, _: int) -> None:
    """Half a head, then silence."""
    await _send(connection, _HALF_HEAD)
    await _read(connection)


async def unfinished(connection: socket.socket, _: int) -> None:
    """A body of 1 MiB but for its last byte."""
    await asyncio.gather(_send(connection, _UNFINISHED), _read(connection))


async def slow_head(connection: socket.socket, _: int) -> None:
    """One byte of a head a second."""
    await asyncio.gather(_drip(connection, _HALF_HEAD * 50), _read(connection))


async def slow_body(connection: socket.socket, _: int) -> None:
    """One byte of a body a second."""
    await _send(connection, _BODY_HEAD)
    await asyncio.gather(_drip(connection, _UNFINISHED[len(_BODY_HEAD) :]), _read(connection))


async def unread(connection: socket.socket, turn: int) -> None:
    """Requests whose answers are never read: streams, lists with details, large pages.

    Few of those that are computed: it is about what waits to be read, not about the rows. Pages
    come behind them, more than the system keeps for a reader.
    """
    pages = head("GET", "/openapi.json") * 500
    task = TASKS[turn % len(TASKS)]
    parameters = {"min_new_tokens": 120, "max_new_tokens": 128, "details": True}
    body = {"task_id": task, "text": "a", "parameters": parameters}
    requests = (
        post(body, "/generate_stream") * 2 + pages,
        post({**body, "text": ["a"] * 16}) + pages,
        pages,
        head("GET", "/metrics") * 500,
    )
    await _send(connection, requests[turn % len(requests)])


KINDS: dict[str, Member] = {
    "idle": idle,
    "half-open": half_open,
    "unfinished bodies": unfinished,
    "slow heads": slow_head,
    "slow bodies": slow_body,
    "unread answers": unread,
}


async def main(url: str, kind: str, wanted: int) -> None:
    """Open all, then hold what the server leaves open."""
    parts = urlsplit(url)
    address, gate = (parts.hostname, parts.port), asyncio.Semaphore(CONNECTING)
    loop = asyncio.get_running_loop()

    async def connect() -> socket.socket | None:
        connection = socket.socket()
        connection.setblocking(False)
        if kind == "unread answers":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _TINY_BUFFER)
        async with gate:
            try:
                await loop.sock_connect(connection, address)
            except OSError:
                connection.close()
                return None
        return connection

    async def hold(connection: socket.socket, turn: int) -> None:
        try:
            await KINDS[kind](connection, turn)
        except OSError:  # the server ended it
            connection.close()

    say(begins=True)
    connections = [
        each for each in await asyncio.gather(*(connect() for _ in range(wanted))) if each
    ]
    held = [asyncio.create_task(hold(each, turn)) for turn, each in enumerate(connections)]
    say(opened=len(connections))
    try:
        await asyncio.gather(*held)
        await asyncio.Event().wait()
    finally:
        for connection in connections:
            connection.close()


async def _send(connection: socket.socket, raw: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, memoryview(raw))


async def _drip(connection: socket.socket, raw: bytes) -> None:
    for byte in raw:
        await _send(connection, bytes([byte]))
        await asyncio.sleep(1)


async def _read(connection: socket.socket) -> None:
    """Read to the end, and tell how the first answer begins."""
    first = await asyncio.get_running_loop().sock_recv(connection, 65_536)
    words = first.split(b" ", 2)
    say(came=words[1].decode("latin-1") if len(words) > 2 else "closed")
    while first:
        first = await asyncio.get_running_loop().sock_recv(connection, 65_536)
    raise ConnectionResetError  # so that a sending half of this connection ends too


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
