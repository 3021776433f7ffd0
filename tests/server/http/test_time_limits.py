"""Clients that are slow, with what they are told and what becomes of their requests."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from jumplora_server.http.exchange import HIGH_WATER_BYTES
from raw_http import BIG_BYTES, GET, RawClient, Served, served
from serving import wait_for

LIMIT = 0.4
PATIENT_LIMIT = 2.0
SLOWEST = 10 * LIMIT  # until the server acts, on a machine that others use too
FAST = {"header_timeout": LIMIT, "idle_timeout": LIMIT, "transfer_timeout": LIMIT}
POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
SIZED = POST + b"content-length: 1000\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(**FAST, transfer_rate=1000) as server:
        yield server


@pytest.fixture(scope="module")
def patient() -> Iterator[Served]:
    """For clients that are slow, but not too slow, on a machine that may stall."""
    with served(transfer_timeout=PATIENT_LIMIT, transfer_rate=1000) as server:
        yield server


SLOW_HEADS = {
    "in its first byte": (b"", GET),
    "in a field": (b"GET / HTTP/1.1\r\na: ", b"b" * 1000),
    "in its empty line": (GET[:-2], b"\r"),
    "behind another request": (GET, GET + b"x" * 1000),
    "in empty lines": (b"", b"\r\n" * 500),
}


@pytest.mark.parametrize(("sent", "slow"), SLOW_HEADS.values(), ids=SLOW_HEADS.keys())
def test_a_head_has_to_be_complete_in_time(server: Served, sent: bytes, slow: bytes) -> None:
    with server.client(sent) as client:
        if sent == GET:
            assert client.answer().status == 200
            sent = b""
        assert LIMIT / 2 < client.trickle(slow, pause=0.05) < SLOWEST
        answer = client.answer()
        assert answer.error == (
            408,
            "request_timeout",
            f"the head was not complete within {LIMIT} s",
        )
        assert answer.fields["connection"] == "close"
        assert client.is_closed()


SLOW_BODIES = {
    "that never comes": (SIZED, b""),
    "in single bytes": (SIZED, b"x" * 900),
    "in single chunks": (CHUNKED, b"1\r\nx\r\n" * 200),
    "in the size of a chunk": (CHUNKED, b"0" * 1000),
    "in an extension": (CHUNKED, b"5;" + b"a" * 1000),
    "in a trailer": (CHUNKED + b"5\r\nhello\r\n0\r\n", b"a" * 1000),
    "that stalls after a fast start": (
        POST + b"content-length: 9000000\r\n\r\n" + bytes(100_000),
        b"x" * 1000,
    ),
}


@pytest.mark.parametrize(("sent", "slow"), SLOW_BODIES.values(), ids=SLOW_BODIES.keys())
def test_a_body_has_to_keep_a_pace(server: Served, sent: bytes, slow: bytes) -> None:
    with server.client(sent) as client:
        assert client.trickle(slow, pause=0.05) < SLOWEST
        status, code, text = client.answer().error
        assert (status, code) == (408, "request_timeout")
        assert "1000 bytes a second" in text
        assert client.is_closed()


def test_a_slow_body_that_keeps_the_pace_is_read_to_its_end(patient: Served) -> None:
    pieces = 40
    head = POST + b"content-length: %d\r\n\r\n" % (pieces * 1000)
    with patient.client(head) as client:
        began = time.monotonic()
        for _ in range(pieces):
            client.send(b"x" * 1000)
            time.sleep(1.5 * PATIENT_LIMIT / pieces)  # the pace that the test is about
        assert time.monotonic() - began > PATIENT_LIMIT
        assert client.answer().body == b"%d" % (pieces * 1000)


def test_a_client_that_waited_for_us_has_its_whole_time_afterwards(patient: Served) -> None:
    left = 100
    size = HIGH_WATER_BYTES + 1 + left
    head = POST.replace(b"/ ", b"/wait/unread ") + b"content-length: %d\r\n\r\n" % size
    patient.app.is_released = False
    with patient.client(head) as client:
        client.send(bytes(size - left))
        time.sleep(1.2 * PATIENT_LIMIT)  # in which the app does not answer, and we do not read
        patient.app.is_released = True
        assert client.answer().status == 200
        time.sleep(0.3 * PATIENT_LIMIT)
        client.send(bytes(left) + GET)
        assert client.answer().status == 200


@pytest.mark.parametrize("sent", [b"", GET], ids=["that never asked", "that was answered"])
def test_an_idle_connection_is_closed_without_a_word(server: Served, sent: bytes) -> None:
    with server.client(sent) as client:
        if sent:
            client.answer()
        began = time.monotonic()
        assert client.socket.recv(1) == b""
        assert LIMIT / 2 < time.monotonic() - began < SLOWEST


def test_a_request_that_is_computed_has_no_such_limit(server: Served) -> None:
    with server.client(GET.replace(b"/ ", b"/wait ")) as client:
        client.socket.settimeout(3 * LIMIT)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        server.app.is_released = True
        client.socket.settimeout(10)
        assert client.answer().status == 200
    server.app.is_released = False


def test_a_reader_that_never_reads_is_hung_up_on(server: Served) -> None:
    before, counted = server.app.hung_up, server.refusals.count("read_timeout")
    with server.client(GET.replace(b"/ ", b"/big ")) as client:
        wait_for(lambda: server.app.hung_up == before + 1)
        assert server.refusals.count("read_timeout") == counted + 1
        assert client.is_closed()


def test_a_slow_reader_gets_it_all(patient: Served) -> None:
    with patient.client() as client:
        client.send(GET.replace(b"/ ", b"/big "))
        received, pauses = 0, 0
        while received < BIG_BYTES:
            piece = client.socket.recv(1024 * 1024)
            assert piece
            received += len(piece)
            if pauses < 30:
                pauses += 1
                time.sleep(1.5 * PATIENT_LIMIT / 30)  # slower than the server, within the limit
    assert patient.is_well()


def test_an_early_answer_is_not_lost_behind_a_body_that_still_comes(server: Served) -> None:
    head = POST.replace(b"/ ", b"/unread ") + b"content-length: 9000000\r\n\r\n"
    with server.client(head) as client:
        client.send(bytes(500_000))
        answer = client.answer()
        assert (answer.status, answer.fields["connection"]) == (200, "close")
        client.send(bytes(500_000))  # is read and dropped
        assert client.is_closed()


def test_a_stopped_process_blames_no_client() -> None:
    with served(**FAST) as server, server.client(GET[:-2]) as client:
        connections = server.listener.http.connections
        wait_for(lambda: len(connections.open) == 1)
        done: list[float] = []

        def stand_still() -> None:
            time.sleep(2 * LIMIT)  # blocks the event loop, as SIGSTOP does
            done.append(time.monotonic())

        server.listener.loop.call_soon_threadsafe(stand_still)
        wait_for(lambda: bool(done))
        client.send(b"\r\n")
        assert client.answer().status == 200


def test_other_clients_are_answered_beside_slow_ones(server: Served) -> None:
    slow: list[RawClient] = []
    try:
        slow += [server.client(GET[:5]) for _ in range(50)]
        slow += [server.client(SIZED) for _ in range(50)]
        assert server.is_well()
    finally:
        for client in slow:
            client.socket.close()
