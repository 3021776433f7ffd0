"""Ports for tests: any free one, never a fixed one, kept from other programs until it is used."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_port() -> Iterator[int]:
    """A port of 127.0.0.1 for a server that wants its number beforehand.

    It is bound, not listened on: the system gives it to no one who asks for any free port, and
    connections are refused. A server that binds with SO_REUSEADDR, as servers do, may take it.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextmanager
def deaf_address() -> Iterator[str]:
    """An address at which no server answers."""
    with held_port() as port:
        yield f"http://127.0.0.1:{port}"
