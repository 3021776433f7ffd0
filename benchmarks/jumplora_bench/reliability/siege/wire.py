"""Bytes to a server and back: what no HTTP client sends, and every answer that came of it."""

from __future__ import annotations

import re
import select
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Literal

Ending = Literal["wait", "half", "close", "reset"]
"""After the last byte: wait for answers, shut the sending side, close at once, close with RST."""
LINGER_SECONDS = 0.05  # for answers to malformed requests
_BLOCK = 65_536


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; header names are lower-case, of repeated ones the last counts."""

    status: int
    headers: dict[str, str]
    body: bytes
    raw_head: bytes = b""


@dataclass(slots=True)
class Heard:
    """All that came back. `end` is how the connection ended; `rest` is a part of an answer."""

    answers: list[Answer] = field(default_factory=list)
    rest: bytes = b""
    end: Literal["kept", "closed", "reset", "silent"] = "kept"


def exchange(
    address: tuple[str, int],
    raw: bytes,
    *,
    methods: tuple[str, ...] = ("POST",),
    ending: Ending = "wait",
    seconds: float = 30.0,
    linger: float = LINGER_SECONDS,
) -> Heard:
    """Send `raw` and read until an answer to each of `methods` has come, or the server closed.

    Answers are read while bytes are sent: a server may refuse a body before its end.
    """
    with socket.create_connection(address, timeout=seconds) as connection:
        connection.setblocking(False)
        if ending in ("close", "reset"):
            _send(connection, raw, seconds)
            if ending == "reset":
                no_linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
            return Heard()
        return _converse(connection, raw, methods, ending, seconds, linger)


def _converse(
    connection: socket.socket,
    raw: bytes,
    methods: tuple[str, ...],
    ending: Ending,
    seconds: float,
    linger: float,
) -> Heard:
    heard, buffer, left = Heard(), bytearray(), memoryview(raw)
    limit = time.monotonic() + seconds
    while True:
        now = time.monotonic()
        if now >= limit:
            if len(heard.answers) < len(methods):
                heard.end = "silent"
            break
        wants_send = [connection] if left else []
        readable, writable, _ = select.select([connection], wants_send, [], limit - now)
        try:
            if writable:
                left = left[connection.send(left[:_BLOCK]) :]
                if not left and ending == "half":
                    connection.shutdown(socket.SHUT_WR)
            if readable:
                block = connection.recv(_BLOCK)
                if not block:
                    heard.end = "closed"
                buffer += block
        except BlockingIOError:
            continue
        except OSError:  # reset: what was read before counts
            heard.end = "reset"
        _take(heard, buffer, methods)
        if heard.end != "kept":
            break
        if len(heard.answers) >= len(methods) and not left:
            limit = min(limit, time.monotonic() + linger)
    _take(heard, buffer, methods)
    heard.rest = bytes(buffer)
    return heard


def _send(connection: socket.socket, raw: bytes, seconds: float) -> None:
    connection.settimeout(seconds)
    try:
        connection.sendall(raw)
    except OSError:
        return  # it was refused before its end


def _take(heard: Heard, buffer: bytearray, methods: tuple[str, ...]) -> None:
    """Move whole answers from the buffer."""
    while buffer:
        turn = min(len(heard.answers), len(methods) - 1)
        found = first_answer(bytes(buffer), methods[turn], is_over=heard.end != "kept")
        if found is None:
            return
        answer, size = found
        del buffer[:size]
        if answer.status >= 200:
            heard.answers.append(answer)


def first_answer(data: bytes, method: str, *, is_over: bool) -> tuple[Answer, int] | None:
    """The first whole answer and its size; None where there is none (yet)."""
    head, gap, after = data.partition(b"\r\n\r\n")
    if not gap:
        return None
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ", 2)
    if not first.startswith(b"HTTP/1.") or len(words) < 2 or not words[1].isdigit():
        return None
    headers = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
    status, start = int(words[1]), len(head) + 4
    try:
        body = _body(after, headers, is_over=is_over)
    except ValueError:  # a length that is none
        return None
    if method == "HEAD" or status < 200 or status in (204, 304):
        body = (b"", 0)
    if body is None:
        return None
    return Answer(status, headers, body[0], head), start + body[1]


def _body(data: bytes, headers: dict[str, str], *, is_over: bool) -> tuple[bytes, int] | None:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _chunks(data)
    if "content-length" in headers:
        size = _length(headers["content-length"].encode("latin-1"), 10)
        return (data[:size], size) if len(data) >= size else None
    return (data, len(data)) if is_over else None


def _length(digits: bytes, base: Literal[10, 16]) -> int:
    """A length as HTTP writes it. Raises ValueError for what `int` takes beyond that, as -6."""
    if not re.fullmatch(rb"[0-9]+" if base == 10 else rb"[0-9a-fA-F]+", digits):
        raise ValueError(f"no length: {digits!r}")
    return int(digits, base)


def _chunks(data: bytes) -> tuple[bytes, int] | None:
    body, at = bytearray(), 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size = _length(data[at:end].split(b";")[0], 16)
        start = end + 2
        if len(data) < start + size + 2:
            return None
        body += data[start : start + size]
        at = start + size + 2
        if size == 0:
            return bytes(body), at
