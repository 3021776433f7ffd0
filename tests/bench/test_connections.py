"""The cheap client against a server that writes what is decided here, byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from jumplora_bench.connections import FAILURES, Connections
from small_http import Asked, Said, http_server

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


async def against(
    pieces: Sequence[bytes], ask: Callable[[Connections, bytes], Awaitable[None]]
) -> None:
    """`ask` a server that sends these pieces, each in a packet of its own, and then ends."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with Connections(f"http://127.0.0.1:{port}") as connections:
            await ask(connections, connections.request("/stream"))


def lines_of(*pieces: bytes) -> list[str]:
    lines: list[str] = []

    async def ask(connections: Connections, request: bytes) -> None:
        assert await connections.ask(request, lines.append) == (200, b"")

    asyncio.run(against(pieces, ask))
    return lines


def test_lines_come_whole_whatever_chunks_and_packets_they_were_cut_into() -> None:
    whole = CHUNKED + b"7\r\ndata:a\n\r\nA\r\n\ndata:b\r\nd\r\n5\r\nata:c\r\n0\r\n\r\n"
    expected = ["data:a", "", "data:b", "data:c"]
    assert lines_of(whole) == expected
    assert lines_of(*(whole[i : i + 1] for i in range(len(whole)))) == expected


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(CHUNKED + b"7\r\ndat", id="cut in a chunk"),
        pytest.param(CHUNKED + b"5\r\ndata:\r\n", id="without a last chunk"),
        pytest.param(HEAD + b"content-length: 9\r\n\r\nfour", id="shorter than promised"),
        pytest.param(HEAD + b"\r\nabc", id="no length"),
        pytest.param(b"what?\r\n\r\n", id="no HTTP"),
    ],
)
def test_what_is_cut_or_malformed_fails(sent: bytes) -> None:
    async def ask(connections: Connections, request: bytes) -> None:
        with pytest.raises(FAILURES):
            await connections.ask(request, lambda line: None)

    asyncio.run(against([sent], ask))


def test_a_connection_is_kept_until_an_answer_closes_it() -> None:
    ports: list[int] = []

    def answer(asked: Asked) -> Said:
        ports.append(asked.client_port)
        headers = {"connection": "close"} if asked.path == "/last" else {}
        return Said(429 if asked.path == "/refused" else 200, b"body", headers)

    async def ask() -> list[tuple[int, bytes]]:
        async with Connections(url) as connections:
            asked = map(connections.request, ("/first", "/refused", "/last", "/again"))
            return [await connections.ask(request, lambda line: None) for request in asked]

    with http_server(answer) as url:
        assert asyncio.run(ask()) == [(200, b""), (429, b"body"), (200, b""), (200, b"")]
    assert ports[0] == ports[1] == ports[2] != ports[3]
