"""Several binds of one server: their addresses, their connections, and their end."""

from __future__ import annotations

import logging
import socket
from contextlib import ExitStack

import pytest

from jumplora_server.binds import Bind, BindName, overlap, parse_bind
from jumplora_server.http.limits import SIDE_CONNECTIONS, SIDE_SPARES, allowed_connections
from jumplora_server.http.server import bound_sockets
from jumplora_server.settings import SettingsError, load_settings
from raw_http import GET, RawClient, served
from serving import wait_for

CAP = 16
PROBE = GET.replace(b"/ ", b"/livez ")
WAIT = GET.replace(b"/ ", b"/wait ")
SIDES = {"admin_bind": "127.0.0.1:0", "metrics_bind": "127.0.0.1:0"}
OTHERS: tuple[BindName, ...] = ("admin", "metrics")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9091", "127.0.0.1", 9091),
        ("0.0.0.0:0", "0.0.0.0", 0),
        ("[::1]:65535", "::1", 65535),
        ("[::]:80", "::", 80),
        ("localhost:8001", "localhost", 8001),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parse_bind("admin", text) == Bind("admin", host, port)


@pytest.mark.parametrize(
    "text",
    ["", "9091", ":9091", "127.0.0.1", "::1:9091", "[::1]", "a:65536", "a:-1", "a b:1", "a:٣"],
)
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_address_is_refused_by_the_settings_name(name: str, text: str) -> None:
    with pytest.raises(
        SettingsError, match=rf"JUMPLORA_{name.upper()}_BIND: .* allowed: write host:port"
    ):
        load_settings(backbone="b", store="s", **{f"{name}_bind": text})


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "::", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "::1", False),
    ],
)
def test_overlapping_addresses(one: str, other: str, is_same: bool) -> None:
    assert overlap((one, 80), (other, 80)) is is_same
    assert not overlap((one, 80), (other, 81))


@pytest.mark.parametrize("other", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("name", OTHERS)
def test_two_binds_at_one_address_are_refused_before_they_listen(
    name: BindName, other: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    binds = (Bind("main", "127.0.0.1", port), Bind(name, other, port))
    with pytest.raises(OSError, match=rf":{port} .*JUMPLORA_{name.upper()}_BIND"):
        bound_sockets(binds)
    with bound_sockets(binds[:1])[0]:  # it was given back
        pass


@pytest.mark.parametrize("name", OTHERS)
def test_a_taken_port_names_the_setting(name: BindName) -> None:
    with bound_sockets((Bind("main", "127.0.0.1", 0),))[0] as taken:
        taken.listen()
        port = taken.getsockname()[1]
        expected = (
            rf"port {port} cannot be listened on.*--{name}-bind or JUMPLORA_{name.upper()}_BIND"
        )
        with pytest.raises(OSError, match=expected):
            bound_sockets((Bind("main", "127.0.0.1", 0), Bind(name, "127.0.0.1", port)))


def test_the_log_says_where_each_bind_listens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with served(**SIDES) as server:
        ports = server.listener.ports
        assert set(ports) == {"main", *OTHERS}
        for name, port in ports.items():
            assert f"running on http://127.0.0.1:{port} ({name} bind)" in caplog.messages


@pytest.mark.parametrize("sent", [b"", GET[:20], WAIT], ids=["idle", "half a head", "busy"])
def test_a_flood_of_the_main_bind_takes_no_connection_of_the_others(sent: bytes) -> None:
    with served(max_connections=CAP, **SIDES) as server, ExitStack() as held:
        open_ = server.listener.http.connections.open
        for name in OTHERS:  # kept alive, and the longest that wait of all
            kept = held.enter_context(RawClient(server.listener.ports[name], GET))
            assert kept.answer().status == 200
            held.callback(_is_answered, kept)
        for _ in range(3 * CAP):
            held.enter_context(server.client(sent))
        wait_for(lambda: len(open_) >= CAP + len(OTHERS))
        for name in OTHERS:
            for _ in range(3):
                with RawClient(server.listener.ports[name], GET) as client:
                    assert client.answer().status == 200
        server.app.is_released = True


def _is_answered(client: RawClient) -> None:
    client.send(GET)
    assert client.answer().status == 200


def test_a_flood_of_a_side_bind_is_bounded_and_keeps_the_main_one_free() -> None:
    with served(max_connections=CAP, **SIDES) as server, ExitStack() as held:
        port = server.listener.ports["admin"]
        clients = [held.enter_context(RawClient(port, WAIT)) for _ in range(SIDE_CONNECTIONS)]
        wait_for(lambda: server.app.waiting == SIDE_CONNECTIONS)
        with RawClient(port, GET) as other:
            assert other.answer().error[:2] == (503, "overloaded")
        with RawClient(port, PROBE) as probe:
            assert probe.answer().status == 200
        held_open = [held.enter_context(RawClient(port, GET[:9])) for _ in range(3 * SIDE_SPARES)]
        assert server.is_well()
        limit = SIDE_CONNECTIONS + SIDE_SPARES
        wait_for(lambda: len(server.listener.http.connections.open) <= limit + 1)
        server.app.is_released = True
        assert all(client.answer().status == 200 for client in clients)
        assert held_open


def test_binds_need_descriptors_of_their_own() -> None:
    side = SIDE_CONNECTIONS + SIDE_SPARES
    assert allowed_connections(8192, 1024) - allowed_connections(8192, 1024, sides=2) == 2 * side


def test_all_binds_are_drained_together() -> None:
    with served(**SIDES) as server, ExitStack() as held:
        ports = server.listener.ports
        clients = [held.enter_context(RawClient(port, WAIT)) for port in ports.values()]
        wait_for(lambda: server.app.waiting == len(ports))
        server.listener.http.should_exit = True
        wait_for(lambda: not any(map(_is_open, ports.values())))
        server.app.is_released = True
        for client in clients:
            answer = client.answer()
            assert (answer.status, answer.fields["connection"]) == (200, "close")
            assert client.is_closed()


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True
