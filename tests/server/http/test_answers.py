"""Requests and answers over one connection, as clients of many kinds see them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raw_http import GET, RawClient, Served, served
from serving import serving_app, wait_for

POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
HELLO = POST + b"content-length: 5\r\n\r\nhello"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as server:
        yield server


def test_requests_follow_each_other_on_one_connection(server: Served) -> None:
    with server.client() as client:
        for _ in range(3):
            client.send(HELLO)
            answer = client.answer()
            assert (answer.status, answer.body) == (200, b"5")
            assert "connection" not in answer.fields
            assert answer.fields["date"].endswith("GMT")


def test_pipelined_requests_are_answered_in_their_order(server: Served) -> None:
    sizes = [0, 5, 20_000, 1]
    sent = b"".join(POST + b"content-length: %d\r\n\r\n" % n + bytes(n) for n in sizes)
    with server.client(sent) as client:
        stream = client.socket.makefile("rb")
        received = b""
        while received.count(b"HTTP/1.1 200") < len(sizes) or not received.endswith(b"1"):
            received += stream.read1()
    assert [int(part[-8:].split(b"\n")[-1]) for part in received.split(b"HTTP/1.1")[1:]] == sizes


def test_chunks_are_read_and_what_follows_them_is_the_next_request(server: Served) -> None:
    chunked = POST + b"transfer-encoding: chunked\r\n\r\n2;x\r\nhe\r\n3\r\nllo\r\n0\r\na: b\r\n\r\n"
    with server.client(chunked) as client:
        assert client.answer().body == b"5"
        client.send(GET)
        assert client.answer().body == b"0"


def test_head_has_the_fields_of_get_and_no_body(server: Served) -> None:
    with server.client(GET.replace(b"GET", b"HEAD")) as client:
        assert client.answer(method="HEAD").body == b""
        client.send(GET)
        assert client.answer().body == b"0"


def test_http_1_0_is_answered_and_closed(server: Served) -> None:
    for path in (b"/", b"/big"):
        with server.client(b"GET " + path + b" HTTP/1.0\r\n\r\n") as client:
            answer = client.answer()
            assert (answer.status, answer.fields["connection"]) == (200, "close")
            assert "transfer-encoding" not in answer.fields
            assert client.is_closed()


def test_a_client_that_closes_is_closed(server: Served) -> None:
    with server.client(GET[:-2] + b"connection: close\r\n\r\n") as client:
        assert client.answer().fields["connection"] == "close"
        assert client.is_closed()


def test_continue_is_said_when_the_body_is_wanted(server: Served) -> None:
    head = POST + b"content-length: 5\r\nexpect: 100-continue\r\n\r\n"
    with server.client(head) as client:
        assert client.socket.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hello")
        assert client.answer().body == b"5"
    with server.client(head.replace(b"/ ", b"/unread ")) as client:
        answer = client.answer()  # without the body, so the connection cannot go on
        assert (answer.status, answer.fields["connection"]) == (200, "close")


def test_an_upgrade_is_ignored(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    for protocol in (b"websocket", b"h2c"):
        upgrade = GET[:-2] + b"connection: upgrade\r\nupgrade: " + protocol + b"\r\n\r\n"
        with server.client(upgrade) as client:
            assert client.answer().status == 200
            client.send(GET)
            assert client.answer().status == 200
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


BAD = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00",
    "two lengths": POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nhost: x\n\n",
    "a bad chunk": POST + b"transfer-encoding: chunked\r\n\r\n5\nhello\n0\n\n",
    "behind a good one": HELLO + b"\0",
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD.keys())
def test_bad_requests_are_refused_in_our_form_and_quietly(
    server: Served, caplog: pytest.LogCaptureFixture, raw: bytes
) -> None:
    counted = len(server.refusals)
    with server.client(raw) as client:
        if raw.startswith(HELLO):
            assert client.answer().body == b"5"
        answer = client.answer()
        assert answer.error[:2] == (400, "bad_request")
        assert answer.fields["connection"] == "close"
        assert client.is_closed()
    assert len(server.refusals) == counted + 1
    assert [r for r in caplog.records if r.levelno >= logging.INFO] == []


def test_a_refusal_says_nothing_that_acts_on_a_terminal(server: Served) -> None:
    with server.client(b"GET / HTTP/1.1\r\nhost: x\r\n\xc2\x9b31m no field\r\n\r\n") as client:
        answer = client.answer()
    assert "is not a field" in answer.error[2]
    assert answer.body.isascii()
    assert "\x9b" not in answer.error[2]


def test_a_hang_up_while_the_app_works_is_noticed(server: Served) -> None:
    before = server.app.hung_up
    with server.client(POST + b"content-length: 5\r\n\r\nhe"):
        pass
    wait_for(lambda: server.app.hung_up == before + 1)


async def broken_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers wrongly in the way that the path names."""
    if scope["type"] == "lifespan":
        while (event := await receive())["type"] != "lifespan.shutdown":
            await send({"type": event["type"] + ".complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    start = {"type": "http.response.start", "status": 200, "headers": []}
    match scope["path"]:
        case "/raises":
            raise RuntimeError("a secret")
        case "/silent":
            return
        case "/splits":
            await send({**start, "headers": [(b"a", b"b\r\nc: d")]})
            await send({"type": "http.response.body", "body": b"x"})
        case "/promises":
            await send({**start, "headers": [(b"content-length", b"5")]})
            await send({"type": "http.response.body", "body": b"x"})
        case "/stops":
            await send(start)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            raise RuntimeError("a secret")


@pytest.mark.parametrize("path", ["/raises", "/silent", "/splits", "/promises"])
def test_an_app_that_fails_is_a_500_in_our_form(
    server: Served, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    chosen = server.listener.settings
    with (
        serving_app(broken_app, chosen) as listener,
        RawClient(listener.port, GET.replace(b"/ ", path.encode() + b" ")) as client,
    ):
        status, code, text = client.answer().error
    assert (status, code) == (500, "internal")
    assert "secret" not in text
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1


def test_an_answer_that_breaks_off_is_not_taken_for_whole(server: Served) -> None:
    with (
        serving_app(broken_app, server.listener.settings) as listener,
        RawClient(listener.port, GET.replace(b"/ ", b"/stops ")) as client,
    ):
        received = b""
        try:
            while piece := client.socket.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
    assert b"1\r\nx\r\n" in received
    assert not received.endswith(b"0\r\n\r\n")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=6), st.booleans())
def test_h11_understands_what_we_answer(server: Served, pieces: list[bytes], sized: bool) -> None:
    """Its client is the oracle: one state machine from the request to the end of the answer."""
    client = h11.Connection(h11.CLIENT)
    framing = ("content-length", str(len(b"".join(pieces)))) if sized else None
    fields = [("host", "x"), framing or ("transfer-encoding", "chunked")]
    sent = client.send(h11.Request(method="POST", target="/", headers=fields)) or b""
    for piece in pieces:
        sent += client.send(h11.Data(data=piece)) or b""
    sent += client.send(h11.EndOfMessage()) or b""
    body = b""
    with server.client(sent) as wire:
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                client.receive_data(wire.socket.recv(65536))
            elif isinstance(event, h11.Data):
                body += event.data
    assert json.loads(body) == len(b"".join(pieces))
