"""What each connection of a crowd sends, and what is told of the answers that come."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from jumplora_bench.reliability.connections import CROWDS, FIRST_WAVE
from jumplora_bench.reliability.siege import crowd
from jumplora_bench.reliability.siege.crowd import KINDS
from jumplora_bench.reliability.site import wait_until
from ports import deaf_address

REFUSED = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"


@dataclass
class Heard:
    """What a server read of each connection, in the order they came."""

    url: str = ""
    got: list[bytearray] = field(default_factory=list)
    closed: int = 0


@contextmanager
def server(*, says: bytes = b"", after: int = 1, closes: bool = False) -> Iterator[Heard]:
    """Reads all there is; once a connection has sent `after` bytes it says that, and may close."""
    heard, connections = Heard(), list[socket.socket]()
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        heard.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def read(connection: socket.socket, got: bytearray) -> None:
            has_said = False
            with connection, suppress(OSError):
                while True:
                    if says and not has_said and len(got) >= after:
                        connection.sendall(says)
                        has_said = True
                        if closes:
                            break
                    block = connection.recv(65536)
                    if not block:
                        break
                    got += block
            heard.closed += 1

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connections.append(connection)
                    heard.got.append(bytearray())
                    threads.append(threading.Thread(target=read, args=(connection, heard.got[-1])))
                    threads[-1].start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield heard
        listener.shutdown(socket.SHUT_RDWR)
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    for thread in [accepting, *threads]:
        thread.join(10)


def hold(heard_url: str, kind: str, count: int, seconds: float) -> None:
    """Hold a crowd for some time, in this process."""

    async def for_a_while() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await crowd.main(heard_url, kind, count)

    asyncio.run(for_a_while())


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        pytest.param("idle", {b"", b"GET /livez HTTP/1.1\r\nhost: siege\r\n\r\n"}, id="idle"),
        pytest.param(
            "half-open", {b"POST /generate HTTP/1.1\r\nhost: siege\r\ncontent-ty"}, id="half-open"
        ),
    ],
)
def test_connections_that_stop(kind: str, expected: set[bytes]) -> None:
    with server() as heard:
        hold(heard.url, kind, 4, 0.3)
        assert {bytes(got) for got in heard.got} == expected
        assert len(heard.got) == 4


def test_a_body_that_lacks_its_last_byte() -> None:
    with server() as heard:
        hold(heard.url, "unfinished bodies", 1, 1.5)
        top, _, body = bytes(heard.got[0]).partition(b"\r\n\r\n")
    length = int(re.findall(rb"content-length: (\d+)", top)[0])
    assert len(body) == length - 1
    assert body.startswith(b'{"task_id": "agnews"')


@pytest.mark.parametrize("kind", ["slow heads", "slow bodies"])
def test_a_byte_a_second(kind: str) -> None:
    with server() as heard:
        hold(heard.url, kind, 2, 1.5)
        sizes = [len(got.partition(b"\r\n\r\n")[2] or got) for got in heard.got]
    assert len(sizes) == 2
    assert all(1 <= size <= 2 for size in sizes), "two within a second and a half"


def test_answers_that_are_never_read_are_of_four_kinds() -> None:
    with server() as heard:
        hold(heard.url, "unread answers", 4, 1.0)
        firsts = {bytes(got[:30]).split(b" HTTP")[0] for got in heard.got}
    assert firsts == {
        b"POST /generate_stream", b"POST /generate", b"GET /openapi.json", b"GET /metrics",
    }  # fmt: skip


def test_what_comes_first_is_told_and_the_end_of_it_ends_the_connection(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with server(says=REFUSED, closes=True) as heard:
        hold(heard.url, "half-open", 3, 0.5)
        assert wait_until(lambda: heard.closed == 3, 10)
    lines = told(capsys)
    assert lines[0] == {"begins": True}
    assert {"opened": 3} in lines
    assert lines.count({"came": "408"}) == 3


def test_a_connection_that_is_closed_without_a_word_is_told_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with server(says=b"\r\n", closes=True) as heard:
        hold(heard.url, "half-open", 1, 0.5)
        assert heard.closed == 1
    assert {"came": "closed"} in told(capsys)


def test_connections_that_cannot_be_opened_are_not_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with deaf_address() as url:
        hold(url, "idle", 5, 0.3)
    assert told(capsys) == [{"begins": True}, {"opened": 0}]


def test_crowds_are_of_kinds_that_there_are() -> None:
    assert {each.kind for each in (*CROWDS, FIRST_WAVE)} == KINDS.keys()
