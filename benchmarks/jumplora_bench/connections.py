"""A client that costs little: kept connections, prepared bytes out, lines in.

A load generator takes what the server beside it then lacks, and of a general client's time for a
streamed answer nine tenths are the client's own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from types import TracebackType
from urllib.parse import urlsplit

_PATIENCE = 600.0  # seconds for one answer; the server's own deadline comes first
_STATUS = re.compile(rb"http/1\.[01] (\d{3}) ")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n")

# How an answer fails that is cut, malformed or absent.
FAILURES = (OSError, EOFError, ValueError, asyncio.LimitOverrunError)


class Connections:
    """To one server: as many as are in use at once, each kept for the next request."""

    def __init__(self, url: str) -> None:
        """`url` has the scheme http and a port."""
        self._place = urlsplit(url)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Connections:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for _, writer in self._idle:
            writer.close()

    def request(
        self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The bytes of a GET, or with a body of a POST."""
        fields = {"host": self._place.netloc, "content-length": str(len(body)), **(headers or {})}
        lines = [f"{'POST' if body else 'GET'} {path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        return "\r\n".join([*lines, "\r\n"]).encode() + body

    async def ask(self, request: bytes, on_line: Callable[[str], None]) -> tuple[int, bytes]:
        """Status and body. With 200 `on_line` gets the body instead, as it comes.

        Raises one of FAILURES (TimeoutError is an OSError).
        """
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await self._connection()
            try:
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                status = _status(head)
                refusal: list[bytes] = []
                lines = _Lines(on_line)
                await _read(reader, head, lines.add if status == 200 else refusal.append)
                lines.end()
            except BaseException:
                writer.close()
                raise
        if b"\r\nconnection: close\r\n" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return status, b"".join(refusal)

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._place.hostname, self._place.port)


def _status(head: bytes) -> int:
    found = _STATUS.match(head)
    if found is None:
        raise ValueError(f"not the head of an answer: {head[:80]!r}")
    return int(found[1])


async def _read(
    reader: asyncio.StreamReader, head: bytes, on_piece: Callable[[bytes], None]
) -> None:
    if b"\r\ntransfer-encoding: chunked\r\n" in head:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            on_piece((await reader.readexactly(size + 2))[:-2])
        await reader.readuntil(b"\r\n")
        return
    found = _LENGTH.search(head)
    if found is None:
        raise ValueError("an answer without its length")
    left = int(found[1])
    while left:
        piece = await reader.read(left)
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        on_piece(piece)
        left -= len(piece)


class _Lines:
    """Pieces in, whole lines out."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""

    def add(self, piece: bytes) -> None:
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for line in whole:
            self._on_line(line.decode().rstrip("\r"))

    def end(self) -> None:
        if self._rest:
            self._on_line(self._rest.decode())
