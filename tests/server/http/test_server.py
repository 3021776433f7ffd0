"""The listening socket."""

from __future__ import annotations

import asyncio
import socket

import pytest

from jumplora_server.http.server import SEND_BUFFER_BYTES, bound_socket


def test_connections_send_small_pieces_at_once() -> None:
    async def connect() -> int:
        told: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            told.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with bound_socket("127.0.0.1", 0) as listener:
            async with await asyncio.start_server(accepted, sock=listener):
                _, writer = await asyncio.open_connection(*listener.getsockname())
                nodelay = await told
                writer.close()
                await writer.wait_closed()
        return nodelay

    assert asyncio.run(connect()) == 1


def test_a_taken_port_is_told_with_what_to_do() -> None:
    with bound_socket("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} cannot be listened on.*JUMPLORA_PORT"):
            bound_socket("127.0.0.1", port)


def test_connections_keep_little_for_a_client_that_does_not_read() -> None:
    with bound_socket("127.0.0.1", 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as connection:
            kept = connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert kept <= 2 * SEND_BUFFER_BYTES
