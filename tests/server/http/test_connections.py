"""Many connections, and many large bodies: who makes room, and who is always answered."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest

from jumplora_server.http.connections import AT_ONCE
from raw_http import GET, PATIENCE, RawClient, Served, served
from serving import wait_for

CAP = 16
PROBE = GET.replace(b"/ ", b"/livez ")
WAIT = GET.replace(b"/ ", b"/wait ")
MIB = 1024 * 1024


@contextmanager
def many(
    server: Served, count: int, sent: bytes = b"", beside: int = 0
) -> Iterator[list[RawClient]]:
    """Connections that have sent the same, `beside` others."""
    with ExitStack() as held:
        clients = [held.enter_context(server.client(sent)) for _ in range(count)]
        connections = server.listener.http.connections
        least = min(beside + count, connections.limits.connections)
        wait_for(lambda: len(connections.open) >= least)
        yield clients


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.parametrize("sent", [b"", GET[:20]], ids=["idle", "half a head"])
def test_the_one_that_waits_longest_makes_room(sent: bytes) -> None:
    with served(max_connections=CAP) as server, many(server, CAP, sent) as clients:
        with ExitStack() as held:
            for waiting in clients[:5]:
                other = held.enter_context(server.client(GET))
                assert other.answer().status == 200
                if sent:
                    assert waiting.answer().error[:2] == (503, "overloaded")
                assert waiting.is_closed()
        assert server.refusals == ["connections"] * 5
        clients[-1].send(GET[len(sent) :])
        assert clients[-1].answer().status == 200


def test_where_all_are_busy_probes_alone_are_answered() -> None:
    with served(max_connections=CAP) as server, many(server, CAP, WAIT) as clients:
        wait_for(lambda: server.app.waiting == CAP)
        with server.client(PROBE) as probe:
            answer = probe.answer()
            assert (answer.status, answer.fields["connection"]) == (200, "close")
        with server.client(GET) as other:
            answer = other.answer()
            status, code, text = answer.error
            assert (status, code) == (503, "overloaded")
            assert f"{CAP} connections" in text
            assert answer.fields["retry-after"] == "1"
            assert answer.fields["x-jumplora-shed"] == "1"
        server.app.is_released = True
        for client in clients:
            assert client.answer().status == 200


@pytest.mark.parametrize("is_kept", [True, False], ids=["others idle", "others gone"])
def test_a_spare_connection_is_like_others_once_there_is_room(is_kept: bool) -> None:
    with served(max_connections=CAP) as server, many(server, CAP, WAIT) as clients:
        wait_for(lambda: server.app.waiting == CAP)
        with many(server, 1, beside=CAP) as (spare,):
            wait_for(lambda: len(server.listener.http.connections.open) == CAP + 1)
            server.app.is_released = True
            for client in clients:
                assert client.answer().status == 200
                if not is_kept:
                    client.socket.shutdown(socket.SHUT_RDWR)
            if not is_kept:
                wait_for(lambda: len(server.listener.http.connections.open) == 1)
            for _ in range(2):
                spare.send(GET)
                assert spare.answer().status == 200
            assert server.refusals == ["connections"] * is_kept
            if is_kept:  # one of them made room
                wait_for(lambda: len(server.listener.http.connections.open) == CAP)


def test_where_spares_are_held_too_a_probe_gets_one() -> None:
    with (
        served(max_connections=CAP) as server,
        many(server, CAP, WAIT),
        many(server, 100, GET[:9], beside=CAP),
    ):
        with server.client(PROBE) as probe:
            assert probe.answer().status == 200
        assert len(server.listener.http.connections.open) < CAP + 100
        server.app.is_released = True


def test_two_thousand_idle_and_half_open_connections_cost_little() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 9000:
        pytest.skip("4,000 connections need 8,000 open files")
    with served() as server:
        assert server.is_well()
        before = resident_bytes()
        with many(server, 2000), many(server, 2000, GET[:20], beside=2000):
            assert server.is_well()
            # The clients' sockets included.
            assert (resident_bytes() - before) / 4000 < 8 * 1024
        wait_for(lambda: len(server.listener.http.connections.open) == 0)


def test_more_connections_than_are_looked_at_at_once_are_all_closed() -> None:
    with served(idle_timeout=2) as server, many(server, 2 * AT_ONCE + 1):
        wait_for(lambda: len(server.listener.http.connections.open) == 0)


def test_unfinished_bodies_share_a_budget() -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % MIB
    budget = 4
    with served(max_held_body_bytes=budget * MIB) as server, ExitStack() as held:
        before = resident_bytes()
        clients = []
        for _ in range(100):
            client = held.enter_context(server.client(head))
            with suppress(OSError):  # it may be refused before
                client.send(bytes(MIB - 1))
            clients.append(client)
        wait_for(lambda: len(server.refusals) == 100 - budget)
        assert server.refusals == ["bodies"] * (100 - budget)
        assert server.listener.http.connections.bodies.total <= budget * MIB
        assert resident_bytes() - before < 40 * MIB
        small = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 16384\r\n\r\n" + bytes(16384)
        with server.client(small) as quiet:
            assert quiet.answer().body == b"16384"
        with server.client(PROBE) as probe:
            assert probe.answer().status == 200
        statuses = []
        for client in clients:
            with suppress(OSError):
                client.send(b"x")
            answer = client.answer()
            statuses.append(answer.status)
            if answer.status != 200:
                assert answer.error[:2] == (503, "overloaded")
                assert answer.fields["x-jumplora-shed"] == "1"
        assert statuses.count(200) == budget
    assert server.listener.http.connections.bodies.total == 0


def test_bodies_of_clients_that_hang_up_leave_their_room() -> None:
    size = 400_000  # two of them fit
    body = b"POST /wait HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size + bytes(size)
    with served(max_held_body_bytes=MIB) as server:
        connections = server.listener.http.connections
        for _ in range(5):
            server.app.waiting, server.app.is_released = 0, False
            with many(server, 2, body):
                wait_for(lambda: server.app.waiting == 2)
            wait_for(lambda: len(connections.open) == 0)
            assert connections.bodies.total == 2 * size, "the app has them still"
            server.app.is_released = True
            wait_for(lambda: connections.bodies.total == 0)
        with server.client(body) as client:
            assert client.answer().body == b"%d" % size
        assert server.refusals == []
        wait_for(lambda: connections.bodies.total == 0)


def test_half_bodies_of_clients_that_hang_up_leave_their_room() -> None:
    size = 800_000
    body = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size + bytes(size)
    with served(max_held_body_bytes=MIB) as server:
        bodies = server.listener.http.connections.bodies
        for _ in range(5):
            with server.client(body[: size // 2]):
                wait_for(lambda: bodies.total > size // 3)
            wait_for(lambda: bodies.total == 0)
        with server.client(body) as client:
            assert client.answer().body == b"%d" % size
        assert server.app.hung_up == 5
        assert server.refusals == []


def test_a_body_that_is_put_away_as_it_comes_is_not_held() -> None:
    size = 8 * MIB
    head = b"PUT /stream HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size
    with served(max_held_body_bytes=MIB) as server, server.client(head) as client:
        client.send(bytes(size))
        assert client.answer().body == b"%d" % size
        assert server.listener.http.connections.bodies.total == 0


def test_without_file_descriptors_connections_that_wait_make_room(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with served() as server, many(server, 20, GET[:20]) as waiting, ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(30)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        in_use = max(map(int, os.listdir("/proc/self/fd"))) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (in_use, hard))
        with suppress(OSError):
            while True:  # the gaps between them
                held.callback(os.close, os.dup(0))
        try:
            for other in sockets:
                other.settimeout(PATIENCE)
                other.connect(("127.0.0.1", server.listener.port))
            status, code, text = waiting[0].answer().error
            assert (status, code) == (503, "overloaded")
            assert "as many files and connections open as the system allows" in text
            assert waiting[0].is_closed()
            assert set(server.refusals) == {"descriptors"}
            # It is tried again a second later, with the descriptors of those that were closed.
            sockets[0].sendall(GET)
            assert sockets[0].recv(12) == b"HTTP/1.1 200"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    complaints = [r for r in caplog.records if "no connection can be accepted" in r.message]
    assert len(complaints) == 1


def test_a_reset_that_the_transport_has_not_seen_is_no_fault_of_the_app(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with served() as server:
        head = b"POST /held/unread HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"
        with server.client(head) as client:
            assert server.app.is_held.wait(PATIENCE)
            client.will_reset()
        server.app.may_go.set()
        assert server.is_well()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
