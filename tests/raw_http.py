"""A client that sends what it likes, and a small app to send it to."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from jumplora_server.http.connections import Traffic
from jumplora_server.http.refusal import Reason
from jumplora_server.settings import Settings
from serving import Listener, serving_app

PATIENCE = 10.0
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
BIG_BYTES = 32 * 1024 * 1024  # more than the kernel buffers of a connection


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def error(self) -> tuple[int, str, str]:
        """Status, type and text of an error in the server's form."""
        assert self.fields["content-type"] == "application/json", self
        said = json.loads(self.body)
        assert set(said) == {"error", "error_type"}
        return self.status, said["error_type"], said["error"]


class _Stream:
    """What http.client reads answers from, one after the other, without losing the next one."""

    def __init__(self, wire: socket.socket) -> None:
        self._file = wire.makefile("rb")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def makefile(self, mode: str) -> Self:
        """Itself, for every answer."""
        del mode
        return self

    def close(self) -> None:
        """Stay open for the next answer."""

    def finish(self) -> None:
        """Close it."""
        self._file.close()


class RawClient:
    """One connection."""

    def __init__(self, port: int, received: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = _Stream(self.socket)
        self.send(received)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.finish()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.socket.sendall(data)

    def answer(self, method: str = "GET") -> Answer:
        """Wait for an answer to a request of that method."""
        response = http.client.HTTPResponse(self._stream, method=method)  # type: ignore[arg-type]
        response.begin()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, fields, response.read())

    def will_reset(self) -> None:
        """Closing it will reset the connection."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def is_closed(self) -> bool:
        """Whether the server ends the connection; waits for it, reading what comes before."""
        try:
            while self.socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except ConnectionResetError:
            pass
        return True

    def trickle(self, data: bytes, pause: float) -> float:
        """Send single bytes until the server answers or closes; the seconds until then."""
        began = time.monotonic()
        for byte in data:
            self.socket.settimeout(pause)
            try:
                self.socket.send(bytes([byte]))
                self.socket.recv(1, socket.MSG_PEEK)
                break
            except TimeoutError:
                continue
            except OSError:
                break
        self.socket.settimeout(PATIENCE)
        with suppress(ConnectionResetError):
            self.socket.recv(1, socket.MSG_PEEK)
        return time.monotonic() - began


class SmallApp:
    """`/` says how many bytes the body had, `/big` sends much, `/wait` answers when released;
    `/unread` and `/wait/unread` do so without a look at the body, `/held/unread` ends its
    answer once `may_go` is set, and the event loop stands still until then."""

    def __init__(self) -> None:
        self.waiting = 0
        self.hung_up = 0
        self.is_released = False
        self.is_held = threading.Event()
        self.may_go = threading.Event()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (event := await receive())["type"] != "lifespan.shutdown":
                await send({"type": event["type"] + ".complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        size, more = 0, True
        while more and not scope["path"].endswith("/unread"):
            message = await receive()
            if message["type"] == "http.disconnect":
                self.hung_up += 1
                return
            size, more = size + len(message["body"]), message["more_body"]
        if scope["path"].startswith("/wait"):
            self.waiting += 1
            while not self.is_released:
                await asyncio.sleep(0.005)
        if scope["path"].startswith("/held"):
            fields = [(b"content-length", b"1")]
            await send({"type": "http.response.start", "status": 200, "headers": fields})
            await send({"type": "http.response.body", "body": b"1", "more_body": True})
            self.is_held.set()
            assert self.may_go.wait(PATIENCE)
            await send({"type": "http.response.body"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/big":
            gone = asyncio.ensure_future(receive())
            for _ in range(BIG_BYTES // 65536):
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
            self.hung_up += gone.done()
            gone.cancel()
        await send({"type": "http.response.body", "body": json.dumps(size).encode()})


@dataclass
class Served:
    """The small app behind our server, and what the server counted."""

    app: SmallApp
    listener: Listener
    refusals: list[Reason]

    def client(self, received: bytes = b"") -> RawClient:
        """A connection that has sent something."""
        return RawClient(self.listener.port, received)

    def is_well(self) -> bool:
        """Whether a plain request is answered."""
        with self.client(GET) as client:
            return client.answer().status == 200


@contextmanager
def served(**settings: Any) -> Iterator[Served]:
    """The small app, with limits of tests. Paths below /stream put their bodies away."""
    app, refusals = SmallApp(), list[Reason]()
    traffic = Traffic(
        probes=frozenset({"/livez"}),
        is_streamed=lambda method, path: path.startswith("/stream"),
        on_refusal=refusals.append,
    )
    chosen = Settings(**{"backbone": "b", "store": "s", "port": 0, **settings})
    with serving_app(app, chosen, traffic) as listener:
        yield Served(app, listener, refusals)
        app.is_released = True
