"""Answers taken off the wire: lengths as HTTP writes them alone, and how a connection ended."""

from __future__ import annotations

import http.client
import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_bench.reliability.siege.shot import head, post
from jumplora_bench.reliability.siege.wire import Ending, Heard, exchange, first_answer

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Address = tuple[str, int]


@contextmanager
def server(*said: bytes, ending: str = "close", reads: int = 65536) -> Iterator[Address]:
    """Reads once, says that, and closes, resets or stays until the client has closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):  # the client reset it
                connection.recv(reads)
                for piece in said:
                    connection.sendall(piece)
                if ending == "stay":
                    connection.settimeout(10)
                    while connection.recv(65536):
                        pass
                if ending == "reset":
                    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()
        thread.join(10)


@pytest.mark.parametrize(
    ("said", "ending", "statuses", "end"),
    [
        pytest.param([ANSWER], "close", [200], "closed", id="answered and closed"),
        pytest.param([ANSWER], "stay", [200], "kept", id="answered and kept"),
        pytest.param([ANSWER[:20], ANSWER[20:]], "stay", [200], "kept", id="in two pieces"),
        pytest.param([], "close", [], "closed", id="closed without a word"),
        pytest.param([], "stay", [], "silent", id="nothing within the time"),
        pytest.param([ANSWER[:-1]], "close", [], "closed", id="cut"),
        pytest.param([b"HTTP/1.1 200 OK\r\n\r\nall"], "close", [200], "closed", id="to the end"),
        pytest.param([b"HTTP/1.1 200 OK\r\n\r\nall"], "stay", [200], "silent", id="without an end"),
    ],
)
def test_how_an_exchange_ends(
    said: list[bytes], ending: str, statuses: list[int], end: str
) -> None:
    with server(*said, ending=ending) as address:
        heard = exchange(address, post({}), seconds=0.3)
    assert [answer.status for answer in heard.answers] == statuses
    assert heard.end == end


def test_a_reset_is_told() -> None:
    with server(ending="reset", reads=1) as address:
        heard = exchange(address, post({"a": "b" * 100}), seconds=5)
    assert heard.end == "reset"


def test_what_is_no_whole_answer_is_the_rest() -> None:
    with server(ANSWER, b"HTTP/1.1 4") as address:
        heard = exchange(address, post({}), seconds=5)
    assert len(heard.answers) == 1
    assert heard.rest == b"HTTP/1.1 4"


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_client_that_goes_hears_nothing(ending: Ending) -> None:
    with server(ANSWER) as address:
        assert exchange(address, post({}), ending=ending, seconds=5) == Heard()


def test_half_a_connection_still_hears_the_answer() -> None:
    got = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while piece := connection.recv(65536):
                    got.extend(piece)
                connection.sendall(ANSWER)

        thread = threading.Thread(target=serve)
        thread.start()
        heard = exchange(listener.getsockname(), post({}), ending="half", seconds=5)
        thread.join(10)
    assert bytes(got) == post({})
    assert [answer.body for answer in heard.answers] == [b"ok"]


@pytest.mark.parametrize(
    "size", ["-1", "-6", "+2", "0x2", "1_0", " ", "2 2", "²", "", "2.0", "2,2"]
)
def test_a_length_that_is_none_makes_no_answer(size: str) -> None:
    told = size.encode()
    plain = b"HTTP/1.1 200 OK\r\ncontent-length: " + told + b"\r\n\r\nok"
    chunked = (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + told + b"\r\nok\r\n0\r\n\r\n"
    )
    for data in (plain, chunked):
        assert first_answer(data, "POST", is_over=True) is None


@given(st.binary(max_size=80))
def test_any_bytes_end_the_reading(tail: bytes) -> None:
    for start in (b"", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", ANSWER):
        found = first_answer(start + tail, "POST", is_over=True)
        assert found is None or 0 < found[1] <= len(start + tail)


class _Socket:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        del mode
        return io.BytesIO(self._data)


@given(
    st.sampled_from([200, 204, 304, 404, 500]),
    st.sampled_from(["GET", "HEAD", "POST"]),
    st.lists(st.binary(min_size=1, max_size=9), max_size=4),
    st.booleans(),
)
def test_http_client_reads_the_same(
    status: int, method: str, pieces: list[bytes], chunked: bool
) -> None:
    if chunked and status not in (204, 304):  # http.client reads chunks there too
        framing = b"transfer-encoding: chunked"
        body = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"
    else:
        body = b"".join(pieces)
        framing = b"content-length: %d" % len(body)
    if method == "HEAD" or status in (204, 304):
        body = b""
    data = b"HTTP/1.1 %d X\r\n%s\r\nX-A: b \r\n\r\n%s" % (status, framing, body)
    found = first_answer(data + b"HTTP/1.1 200 next", method, is_over=False)
    assert found is not None
    oracle = http.client.HTTPResponse(_Socket(data), method=method)  # type: ignore[arg-type]
    oracle.begin()
    answer, size = found
    assert (answer.status, answer.body) == (oracle.status, oracle.read())
    assert answer.headers["x-a"] == "b"
    assert size == len(data)


def test_a_head_has_its_bytes_as_they_are_given() -> None:
    raw = head(b"G\xff", "/\ud800", [("a", b"\x00"), (b"b", "\u202e")], "HTTP/9")
    assert raw == b"G\xff /\xed\xa0\x80 HTTP/9\r\nhost: siege\r\na: \x00\r\nb: \xe2\x80\xae\r\n\r\n"
