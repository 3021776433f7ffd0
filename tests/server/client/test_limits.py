"""Answers that never end, that are too long, or that no server of ours gives: both clients."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from client_pair import KINDS, Kind, client_of
from jumplora_server.client import InputRefused, RequestFailed, Unreachable
from jumplora_server.client.errors import broken_off
from jumplora_server.client.limits import MOST_ANSWER, MOST_EVENT
from small_http import Said, http_server

TIMEOUT = 0.25
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
FAILED = b"HTTP/1.1 500 Oh\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n"
CALLS: dict[str, Callable[[Any], object]] = {
    "info": lambda client: client.info(),
    "stream": lambda client: [*client.stream("a", "x")],
}


@contextmanager
def dripping(head: bytes, drop: bytes) -> Iterator[str]:
    """Answers with `head`, then with `drop` again and again, well before a wait for bytes ends."""
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        connection.recv(65536)
                        connection.sendall(head)
                        while not stopped.wait(TIMEOUT / 8):
                            connection.sendall(drop)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stopped.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("call", "head", "drop"),
    [
        ("info", b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
        ("info", b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        ("info", HEAD, b" "),
        ("stream", b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
        ("stream", FAILED, b" "),
        ("stream", STREAM, b":ping\n\n"),
        ("stream", STREAM, b"d"),
    ],
)
def test_an_answer_that_drips_ends_with_the_calls_time(
    kind: Kind, call: str, head: bytes, drop: bytes
) -> None:
    with dripping(head, drop) as url, client_of(kind, url, timeout=TIMEOUT, retries=0) as client:
        begun = time.monotonic()
        with pytest.raises(Unreachable, match=r"within 0\.25 s") as caught:
            CALLS[call](client)
        assert caught.value.code == "timeout"
        assert TIMEOUT * 0.9 < time.monotonic() - begun < 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_lasts_as_long_as_its_events_come(kind: Kind) -> None:
    fields = {"index": 0, "token": None, "generated_text": None}
    line = b"data:" + json.dumps(fields).encode() + b"\n\n"
    with dripping(STREAM, line) as url, client_of(kind, url, timeout=TIMEOUT) as client:
        events, begun = client.stream("a", "x"), time.monotonic()
        while time.monotonic() - begun < 2 * TIMEOUT:
            next(events)
        events.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_a_redirect_is_no_answer(kind: Kind, status: int) -> None:
    def answer(_: object) -> Said:
        return Said.of({}, status, location="/elsewhere")

    with http_server(answer) as url, client_of(kind, url) as client:
        assert not client.is_ready()
        for call in (lambda: client.remove("a"), lambda: [*client.stream("a", "x")]):
            with pytest.raises(RequestFailed, match=f"HTTP {status}.*is the address right"):
                call()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_is_bounded_and_not_unpacked(kind: Kind, status: int) -> None:
    packed = gzip.compress(bytes(2 * MOST_ANSWER), 1)

    def answer(asked: Any) -> Said:
        assert asked.headers["accept-encoding"] == "identity"
        if asked.path == "/info":
            return Said(status, packed, {"content-encoding": "gzip"})
        return Said(status, bytes(MOST_ANSWER + 1))

    with http_server(answer) as url, client_of(kind, url, retries=0) as client:
        with pytest.raises(RequestFailed, match=r"not JSON|invalid start|can't decode|HTTP 500"):
            client.info()
        with pytest.raises(RequestFailed, match="answer is longer than 67108864 bytes"):
            client.adapters()


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_is_bounded(kind: Kind) -> None:
    with (
        http_server(lambda _: Said(200, b"data:" + bytes(MOST_EVENT))) as url,
        client_of(kind, url) as client,
        pytest.raises(RequestFailed, match="an event is longer than"),
    ):
        list(client.stream("a", "x"))


DEEP = b"[" * 200_000
NEVER = "Mon, 01 Jan 2026 00:00:00 +99999999999999"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "said",
    [
        Said(200, DEEP),
        Said(500, DEEP),
        Said(200, b'data:{"error":' + DEEP + b"\n\n"),
        Said(503, b"{}", {"retry-after": NEVER}),
        Said(200, b"\xff"),
        Said(500, b'{"error": [1], "error_type": {}, "checks": {"a": []}}'),
    ],
)
def test_no_answer_raises_anything_else(kind: Kind, said: Said) -> None:
    with http_server(lambda _: said) as url, client_of(kind, url, retries=0) as client:
        for call in CALLS.values():
            with pytest.raises(RequestFailed):
                call(client)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "url",
    [
        "http://\xfc\u200b.x",
        "http://a\r\nx",
        "http://[v1.x]",
        "http://\ud800",
        "http://.",
        f"http://{'a' * 300}",
        "http://xn--/",
        "http://a..b",
        "http://h/\ud800",
    ],
)
def test_an_address_that_no_request_can_have(kind: Kind, url: str) -> None:
    with pytest.raises(RequestFailed), client_of(kind, url) as client:
        client.info()


@pytest.mark.parametrize("task", ["", ".", "..", "\ud800", "a/b", "x" * 100_000, "a\nb"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_task_id_that_names_another_path_is_not_sent(kind: Kind, task: str) -> None:
    with client_of(kind, "http://127.0.0.1:9", retries=0) as client:
        for name in ("adapter", "rollback", "load", "pin", "remove"):
            with pytest.raises(InputRefused, match="task") as caught:
                getattr(client, name)(task)
            assert (caught.value.status, caught.value.code) == (0, "input")
            str(caught.value).encode()
        for search in ("\ud800", "x" * 100_000):
            with pytest.raises(InputRefused, match="cannot be asked"):
                client.overview(search)


def test_a_streams_error_of_odd_types() -> None:
    error = broken_off({"error": {"a": 1}, "error_type": ["x"], "reason": [2]}, "POST /")
    assert (error.code, error.reason) == ("http", None)
    assert error.message == "the stream broke off with an error"
