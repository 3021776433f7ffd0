"""One request and its answer: the ASGI side of a connection."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any, Protocol

from jumplora_server.http.bodies import ChunkedBody, Pace, SizedBody
from jumplora_server.http.head import Head
from jumplora_server.http.limits import FREE_BODY_BYTES
from jumplora_server.http.refusal import Refused, error_body

Message = MutableMapping[str, Any]
App = Callable[[dict[str, Any], Callable[..., Any], Callable[..., Any]], Awaitable[None]]

PIECE_BYTES = 64 * 1024  # the app gets a body in pieces of at least that much, and what remains
HIGH_WATER_BYTES = 4 * PIECE_BYTES  # of a body that the app has not asked for
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_UNSAFE = re.compile(rb"[\x00\r\n]")
_log = logging.getLogger(__name__)


class Wire(Protocol):
    """What an exchange needs of its connection."""

    @property
    def date(self) -> bytes:
        """The date field of answers, with its line end."""

    @property
    def is_stopping(self) -> bool:
        """Whether the server takes no further request on the connection."""

    def write(self, data: bytes) -> None:
        """Send."""

    async def drained(self) -> None:
        """Wait until what was sent is read, or the connection lost."""

    def want_body(self) -> None:
        """Read on."""

    def answered(self, exchange: Exchange) -> None:
        """Note that the answer was sent in full."""

    def cut(self) -> None:
        """Give the connection up in the middle of an answer, so that the client can tell."""

    def body_failed(self, refusal: Refused) -> None:
        """Read no more of the body."""


class Exchange:
    """Given to the app as `receive` and `send`; the connection feeds it with `body_came`."""

    def __init__(self, wire: Wire, head: Head, pace: Pace, *, is_streamed: bool) -> None:
        """`is_streamed`: the app puts the body away as it comes, so it is not held."""
        self.head = head
        self.pace = pace
        self.is_streamed = is_streamed
        self.framing = ChunkedBody() if head.length is None else SizedBody(head.length)
        self.received = 0
        self.is_answered = False
        self.closes = head.is_last  # the connection ends with the answer
        self._wire = wire
        self._pending = bytearray()
        self._news = asyncio.Event()
        self._is_body_given = False
        self._is_gone = False
        self._failure: Refused | None = None
        self._waits_for_continue = head.waits_for_continue
        self._start: Message | None = None
        self._is_started = False
        self._unsent: int | None = None  # bytes that the answer's content-length still promises
        self._is_chunked = False

    @property
    def is_complete(self) -> bool:
        """Whether the whole body is there."""
        return self.framing.is_complete

    @property
    def is_full(self) -> bool:
        """Whether the app should take some of the body before more is read."""
        return len(self._pending) > HIGH_WATER_BYTES

    @property
    def has_failed(self) -> bool:
        """Whether it was ended by `fail`."""
        return self._failure is not None

    def body_came(self, data: bytes) -> None:
        """Take a piece of the body, perhaps the last one: see `bodies`."""
        self._waits_for_continue = False  # it sends without
        self.received += len(data)
        if not self.is_answered and not self.has_failed:
            self._pending += data
        self._news.set()

    def fail(self, refusal: Refused) -> None:
        """Have the app answer with `refusal` where it still reads the body."""
        if self.is_answered or self.has_failed or self._is_gone:
            return
        self._failure = refusal
        self._pending.clear()
        self._wire.body_failed(refusal)
        self._news.set()

    def hang_up(self) -> None:
        """Note that the client is gone."""
        self._is_gone = True
        self._pending.clear()
        self._news.set()

    async def run(self, app: App, scope: dict[str, Any]) -> None:
        """Have the app answer."""
        try:
            await app(scope, self.receive, self.send)
        except Refused as refusal:  # the app left it to us
            if not self._is_started and not self._is_gone:
                self._answer(refusal.status_code, refusal.code, refusal.detail, refusal.headers)
        except BaseException as error:
            _log.error("the app failed on a request", exc_info=error)
        else:
            if not self.is_answered and not self._is_gone:
                _log.error("the app ended without an answer")
        if self.is_answered or self._is_gone:
            return
        if self._is_started:
            self._wire.cut()
        else:
            self._answer(500, "internal", "an error of the server's own; its log says more")

    async def receive(self) -> Message:
        """The ASGI callable. Raises Refused where the body will not be complete."""
        while True:
            if self._failure is not None and not self.is_answered:
                raise self._failure
            if self._is_gone or self.is_answered:
                return {"type": "http.disconnect"}
            if self._has_piece() and not self._is_body_given:
                body = bytes(self._pending)
                self._pending.clear()
                self._is_body_given = self.is_complete
                self._wire.want_body()
                return {"type": "http.request", "body": body, "more_body": not self.is_complete}
            if self._waits_for_continue:
                self._waits_for_continue = False
                self._wire.write(_CONTINUE)
            self._news.clear()
            self._wire.want_body()
            await self._news.wait()

    async def send(self, message: Message) -> None:
        """The ASGI callable. What a client that is gone does not get is dropped."""
        await self._wire.drained()
        if self._is_gone:
            return
        if message["type"] == "http.response.start" and self._start is None:
            self._start = message
        elif message["type"] == "http.response.body" and self._start and not self.is_answered:
            self._send_body(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"an ASGI message out of turn: {message['type']!r}")

    def _has_piece(self) -> bool:
        # Apps keep a list of the pieces, and a body of single bytes would cost them 40 times as
        # much as it has.
        return self.is_complete or len(self._pending) >= PIECE_BYTES

    def _send_body(self, body: bytes, more: bool) -> None:
        # The head goes out with the first piece of the body: one packet instead of two.
        out = [] if self._is_started else [self._answer_head(None if more else len(body))]
        if self.head.method == "HEAD":
            body = b""
        elif self._unsent is not None:
            if len(body) > self._unsent or (not more and len(body) < self._unsent):
                raise RuntimeError("an answer's body is not as long as its content-length says")
            self._unsent -= len(body)
        if not self._is_chunked:
            out.append(body)
        else:
            if body:
                out += [b"%x\r\n" % len(body), body, b"\r\n"]
            if not more:
                out.append(b"0\r\n\r\n")
        self._is_started = True
        self._wire.write(b"".join(out))
        if not more:
            self.is_answered = True
            self._news.set()
            self._wire.answered(self)

    def _answer_head(self, length: int | None) -> bytes:
        """`length` of the whole body where it is known: it is not said by the app then."""
        assert self._start is not None
        status: int = self._start["status"]
        fields: Iterable[tuple[bytes, bytes]] = self._start.get("headers", ())
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, self._wire.date]
        has_body = status >= 200 and status not in (204, 304)
        is_framed = not has_body
        for name, value in fields:
            if _UNSAFE.search(name) or _UNSAFE.search(value):
                raise RuntimeError(f"a field of the answer has a line end in it: {name!r}")
            lower = name.lower()
            if lower == b"content-length":
                is_framed = True
                self._unsent = int(value) if has_body else None
            elif lower == b"connection" and b"close" in value.lower():
                self.closes = True
                continue
            lines.append(b"%b: %b\r\n" % (name, value))
        if not is_framed:
            lines.append(self._frame(length))
        if self._wire.is_stopping or not self._is_drainable():
            self.closes = True
        if self.closes:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def _frame(self, length: int | None) -> bytes:
        if length is not None and self.head.method != "HEAD":
            self._unsent = length
            return b"content-length: %d\r\n" % length
        if self.head.version == "1.0":
            self.closes = True  # the end of the connection is the end of the body
            return b""
        self._is_chunked = self.head.method != "HEAD"
        return b"transfer-encoding: chunked\r\n"

    def _is_drainable(self) -> bool:
        """Whether what is missing of the body is worth reading, to keep the connection."""
        if self.is_complete:
            return True
        left = self.framing.left
        is_coming = not self._waits_for_continue and not self.has_failed
        return is_coming and left is not None and left <= FREE_BODY_BYTES

    def _answer(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """In place of the app."""
        fields = {"content-type": "application/json", "connection": "close", **(headers or {})}
        encoded = [(name.encode(), value.encode()) for name, value in fields.items()]
        self._start = {"status": status, "headers": encoded}
        self._unsent = None
        self._is_chunked = False
        self._send_body(error_body(code, message), False)


def scope_of(
    head: Head, server: tuple[str, int] | None, client: tuple[str, int] | None
) -> dict[str, Any]:
    """What ASGI has the app know of a request."""
    return {
        "type": "http",
        # In this version apps listen for hang-ups while they stream, in 2.4 they would not.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": head.version,
        "server": server,
        "client": client,
        "scheme": "http",
        "method": head.method,
        "root_path": "",
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query,
        "headers": head.fields,
    }
