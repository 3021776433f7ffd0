"""An HTTP server of a few lines whose answers a test decides: what clients are tried against."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came; header names are lower-case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    client_port: int

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Said:
    """An answer. `missing`: so many bytes less than the length that was promised are sent."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    missing: int = 0

    @classmethod
    def of(cls, value: object, status: int = 200, **headers: str) -> Said:
        """JSON; underscores in header names are dashes."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        named["content-type"] = "application/json"
        return cls(status, json.dumps(value).encode(), named)


@contextmanager
def http_server(answer: Callable[[Asked], Said]) -> Iterator[str]:
    """Serve on a free port, a thread a connection; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one piece: a second one would wait for the client's ACK

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): text for name, text in self.headers.items()}
            asked = Asked(self.command, self.path, headers, body, self.client_address[1])
            said = answer(asked)
            self.send_response(said.status)
            for name, text in said.headers.items():
                self.send_header(name, text)
            self.send_header("content-length", str(len(said.body) + said.missing))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(said.body)
            self.close_connection = self.close_connection or said.missing > 0

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

        def log_message(self, *_: object) -> None:
            """Not to standard error."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # a fuller backlog makes a client try again after a second

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
