"""uvicorn with our own connections, and our own way to stop: tell readiness, wait, refuse, finish,
exit 0."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from jumplora_server.binds import Bind, BindName, overlap, shown_address
from jumplora_server.http.connection import Connection
from jumplora_server.http.connections import Connections, Traffic
from jumplora_server.http.exchange import App
from jumplora_server.http.limits import HttpLimits, allowed_connections, raise_limit
from jumplora_server.http.refusal import Refused
from jumplora_server.settings import Settings

CUT_OFF_SECONDS = 10
BACKLOG = 512
# asyncio accepts as many connections in one turn as it was given for the backlog, and a turn with
# hundreds of them lasts a second. The rest waits in the kernel, which gets the real one after.
ACCEPTS_A_TURN = 16
SEND_BUFFER_BYTES = 128 * 1024  # Linux takes twice that, for its own bookkeeping
ROOM = 16  # connections that are closed at once where file descriptors are missing
COMPLAINT_SECONDS = 60.0  # between two log lines about too few file descriptors
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_log = logging.getLogger(__name__)


class HttpServer(uvicorn.Server):
    """Serves one app until SIGTERM or SIGINT.

    SIGTERM: `on_drain` at once (readiness fails, requests are still taken, since balancers need a
    moment), after `grace` seconds `on_refuse` and no new connections, and `patience` seconds later
    `on_cut_off`, on a worker thread, which ends what still runs. SIGINT skips the grace, a second
    one the waiting. uvicorn itself would raise the signal again at the end and exit with it.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        limits: HttpLimits,
        traffic: Traffic,
        *,
        grace: float,
        patience: float,
        on_drain: Callable[[], None],
        on_refuse: Callable[[], None],
        on_cut_off: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self.connections = Connections(limits, traffic, self.server_state, time.monotonic)
        self._complained = self._made_room = -math.inf
        self._grace = grace
        self._patience = patience
        self._on_drain = on_drain
        self._on_refuse = on_refuse
        self._on_cut_off = on_cut_off
        self._is_draining = False
        self._event_loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app and listen."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        app: App = self.config.loaded_app

        def connect(bind: BindName) -> Connection:
            return Connection(self.connections, app, self.lifespan.state, bind)

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        self.servers = [
            await loop.create_server(
                partial(connect, _name(listener)), sock=listener, backlog=ACCEPTS_A_TURN
            )
            for listener in sockets or ()
        ]
        for listener in sockets or ():
            listener.listen(BACKLOG)
        self.connections.watch()
        self.started = True
        for listener in sockets or ():
            address = shown_address(*listener.getsockname()[:2])
            _log.info("running on http://%s (%s bind)", address, _name(listener))

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Run until a signal, on sockets that are bound."""
        self._event_loop = asyncio.get_running_loop()
        try:
            await super().serve(sockets)
        finally:
            self.connections.stop_watching()

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """asyncio reports each try to accept a connection without a free file descriptor, and
        tries again after a second: make room instead, and say it once in a while."""
        if not isinstance(context.get("exception"), OSError) or "accept" not in context["message"]:
            loop.default_exception_handler(context)
            return
        now = time.monotonic()
        if now - self._made_room >= 0.5:  # asyncio says it once for each connection that waits
            self._made_room = now
            for _ in range(ROOM):
                self.connections.make_room(_no_descriptor())
        if now - self._complained >= COMPLAINT_SECONDS:
            self._complained = now
            _log.error(
                "no connection can be accepted: %s; raise the limit of open files (ulimit -Hn, "
                "LimitNOFILE=) or lower JUMPLORA_MAX_CONNECTIONS",
                context["exception"],
            )

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Route both signals to `handle_exit` while serving."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal handler: only hands over to the event loop."""
        del frame
        if self._event_loop is None:
            self.should_exit = True
            return
        self._event_loop.call_soon_threadsafe(self._stop, sig)

    def _stop(self, sig: int) -> None:
        if self.should_exit:
            self.force_exit = self.force_exit or sig == signal.SIGINT
            return
        if self._is_draining and sig != signal.SIGINT:
            return
        self._is_draining = True
        self._on_drain()
        if sig == signal.SIGINT or not self.started or self._grace == 0:
            self._refuse()
            return
        _log.info("draining: not ready now, requests are taken for %g s more", self._grace)
        assert self._event_loop is not None
        self._event_loop.call_later(self._grace, self._refuse)

    def _refuse(self) -> None:
        if self.should_exit:  # a SIGINT came within the grace
            return
        _log.info("stopping: no new requests, those that run have %g s to end", self._patience)
        self._on_refuse()
        self.should_exit = True
        assert self._event_loop is not None
        self._event_loop.call_later(self._patience, self._cut_off)

    def _cut_off(self) -> None:
        assert self._event_loop is not None
        self._event_loop.run_in_executor(None, self._on_cut_off)


def _no_descriptor() -> Refused:
    return Refused(
        503,
        "descriptors",
        "the server has as many files and connections open as the system allows; try again later",
    )


class BoundSocket(socket.socket):
    """A socket that holds the address of a bind and does not listen yet."""

    bind_name: BindName = "main"


def bound_sockets(binds: Sequence[Bind]) -> list[BoundSocket]:
    """A socket for each bind; taken before the backbone is loaded, so that a taken port is known at
    once. Raises OSError with a text for the operator."""
    held: list[BoundSocket] = []
    try:
        for bind in binds:
            held.append(_bound(bind))
            _check_apart(bind, held)
    except OSError:
        for each in held:
            each.close()
        raise
    return held


def bound_socket(host: str, port: int) -> BoundSocket:
    """The socket of a main bind alone."""
    return _bound(Bind("main", host, port))


def _bound(bind: Bind) -> BoundSocket:
    family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named: without, a stream's
    # small pieces wait for the client's delayed acknowledgement, 40 ms on Linux.
    bound = BoundSocket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.bind_name = bind.name
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it. Left to itself, Linux takes megabytes of answers for a client that
    # does not read, and the app makes them all.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    try:
        bound.bind((bind.host, bind.port))
    except OSError as error:
        bound.close()
        raise OSError(
            f"{bind.host} port {bind.port} cannot be listened on: {error.strerror or error}; "
            f"{bind.advice}"
        ) from error
    return bound


def _check_apart(bind: Bind, held: Sequence[socket.socket]) -> None:
    """Raise OSError where the last one has an address of one before it: the system would say so
    only once both listen."""
    *others, last = (each.getsockname()[:2] for each in held)
    for address in others:
        if overlap(last, address):
            raise OSError(
                f"{shown_address(*last)} is the address of two binds, or part of "
                f"{shown_address(*address)}: {bind.advice}"
            )


def _name(listener: socket.socket) -> BindName:
    return listener.bind_name if isinstance(listener, BoundSocket) else "main"


def http_server(
    app: App,
    settings: Settings,
    traffic: Traffic = Traffic(),
    *,
    on_drain: Callable[[], None],
    on_refuse: Callable[[], None],
    on_cut_off: Callable[[], None],
) -> HttpServer:
    """A server with the limits that a service facing strangers needs."""
    limits = HttpLimits(
        head_seconds=settings.header_timeout,
        idle_seconds=settings.idle_timeout,
        transfer_seconds=settings.transfer_timeout,
        transfer_rate=settings.transfer_rate,
        connections=allowed_connections(
            settings.max_connections, raise_limit(), sides=len(settings.binds) - 1
        ),
        held_body_bytes=settings.max_held_body_bytes,
    )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http="h11",  # not used: the connections are ours
        server_header=False,
        proxy_headers=False,
        # A backstop behind `on_cut_off`: uvicorn cancels what runs, which clients see as a 500.
        timeout_graceful_shutdown=math.ceil(settings.shutdown_timeout) + CUT_OFF_SECONDS,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
    )
    return HttpServer(
        config,
        limits,
        traffic,
        grace=settings.drain_grace,
        patience=settings.shutdown_timeout,
        on_drain=on_drain,
        on_refuse=on_refuse,
        on_cut_off=on_cut_off,
    )
