"""The tests' own ports: held until a server takes them, and never the default one."""

from __future__ import annotations

import socket

import pytest

from jumplora_server.http.server import bound_socket
from jumplora_server.settings import Settings
from ports import held_port


def test_a_held_port_refuses_connections_and_a_server_may_take_it() -> None:
    with held_port() as port:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        with bound_socket("127.0.0.1", port) as listener:
            listener.listen()
            socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_no_test_can_listen_on_the_default_port() -> None:
    default = Settings.model_fields["port"].default
    with socket.socket() as taken, pytest.raises(AssertionError, match=f"port {default}"):
        taken.bind(("127.0.0.1", default))
