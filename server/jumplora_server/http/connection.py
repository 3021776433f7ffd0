"""One connection: bytes in, exchanges one after the other, bytes out, and limits on all of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal, cast

from jumplora_server.binds import BIND_KEY, BindName
from jumplora_server.http.bodies import Pace
from jumplora_server.http.exchange import App, Exchange, scope_of
from jumplora_server.http.head import Head, take_head
from jumplora_server.http.limits import FREE_BODY_BYTES, LINGER_SECONDS
from jumplora_server.http.refusal import Refused

if TYPE_CHECKING:
    from jumplora_server.http.connections import Connections

READ_BYTES = 64 * 1024
SMALL_READ_BYTES = 16 * 1024
State = Literal["idle", "head", "body", "answer", "lingering", "closed"]
"""Waits for a request; for the rest of its head; of its body; for the app; for the client to read
its last answer. `closed`: nothing is read any more, what was written may still be sent."""


class Connection(asyncio.BufferedProtocol):
    """Reads into a buffer that all connections share, and keeps only what is not parsed yet."""

    __slots__ = (
        "_all",
        "_app",
        "_app_state",
        "_bind",
        "_crowd",
        "_exchange",
        "_is_reading",
        "_reading_pace",
        "_received",
        "_searched",
        "_sent",
        "_transport",
        "_writable",
        "_written",
        "is_spare",
        "is_stopping",
        "since",
        "state",
    )

    def __init__(
        self, all_: Connections, app: App, app_state: dict[str, Any], bind: BindName = "main"
    ) -> None:
        self._all = all_
        self._bind = bind
        self._crowd = all_.crowd(bind)
        self._app = app
        self._app_state = app_state
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._searched = 0  # bytes of a head in which its end was looked for
        self._exchange: Exchange | None = None
        self._writable: asyncio.Event | None = None  # while the client does not read
        self._is_reading = True
        self._written = 0
        self._sent = 0  # of those written, at the last look
        self._reading_pace: Pace | None = None  # of the client, while something is unsent
        self.state: State = "closed"
        self.since = 0.0  # when the state began, or the head's first byte came
        self.is_stopping = False
        self.is_spare = False

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the others; there may be no room."""
        self._transport = cast(asyncio.Transport, transport)
        self._enter("idle")
        self._all.opened(self)
        self._crowd.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End what the client waited for."""
        del exc
        self._enter("closed")
        if self._exchange is not None:
            self._exchange.hang_up()
            self._all.bodies.complete(self._exchange)  # it is released when the app has ended
        if self._writable is not None:
            self._writable.set()
        self._crowd.closed(self)
        self._all.closed(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to. Large pieces are for large bodies of a known size: what came behind a
        request has to be kept until it is answered, and chunks take the longer the more there
        are."""
        del sizehint
        if self.state == "body":
            exchange = cast(Exchange, self._exchange)
            if exchange.framing.left is not None and exchange.received > FREE_BODY_BYTES:
                return self._all.inbox
        return self._all.small_inbox

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        if self.state in ("lingering", "closed"):
            return
        if self.state == "idle":
            self._begin_head()
        self._received += self._all.inbox[:nbytes]
        self._advance()

    def pause_writing(self) -> None:
        """The client reads slower than the app writes."""
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        """It has read most of it."""
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    # Called by the exchange

    @property
    def date(self) -> bytes:
        """The date field of answers, with its line end."""
        return self._all.date

    def write(self, data: bytes) -> None:
        """Send."""
        self._written += len(data)
        self._transport.write(data)

    async def drained(self) -> None:
        """Wait until what was sent is read, or the connection lost."""
        if self._writable is not None:
            await self._writable.wait()

    def want_body(self) -> None:
        """Read on."""
        if self.state == "body" and not self._is_reading:
            cast(Exchange, self._exchange).pace.restart(self._all.clock())
            self._read(True)

    def answered(self, exchange: Exchange) -> None:
        """Take the next request, or close."""
        if self.state in ("lingering", "closed"):
            return
        if exchange.closes or self.is_stopping:
            self._finish(is_read=exchange.is_complete and not self._received)
        elif exchange.is_complete:
            self._rest()
            self._advance()
        else:  # a little is missing of its body, and is dropped when it comes
            exchange.pace.restart(self._all.clock())
            self._read(True)

    def cut(self) -> None:
        """Give the connection up in the middle of an answer, so that the client can tell."""
        self._enter("closed")
        self._transport.abort()

    def body_failed(self, refusal: Refused) -> None:
        """Read no more of the body; the app answers."""
        self._all.count(refusal.reason)
        self._received.clear()
        self._read(False)

    # Called for all connections at once

    def check(self, now: float) -> None:
        """Close the connection where the client took too long."""
        limits = self._all.limits
        if self._is_read_too_slowly(now):
            self._all.count("read_timeout")
            self.cut()
        elif self.state == "idle" and now - self.since >= limits.idle_seconds:
            self._finish(is_read=True)
        elif self.state == "head" and now - self.since >= limits.head_seconds:
            self._refuse(
                Refused(
                    408,
                    "head_timeout",
                    f"the head was not complete within {limits.head_seconds:g} s",
                )
            )
        elif self.state == "lingering" and now - self.since >= LINGER_SECONDS:
            if self._reading_pace is None:  # all was sent
                self.cut()
        elif self.state == "body":
            self._check_body(cast(Exchange, self._exchange), now)

    def shutdown(self) -> None:
        """Take no further request, and close as soon as the one that runs is answered."""
        self.is_stopping = True
        if self.state in ("idle", "head", "lingering"):
            self._finish(is_read=True)

    def make_room(self, refusal: Refused) -> None:
        """Close for the sake of another; with an answer where something was asked."""
        self._all.count(refusal.reason)
        if self.state == "lingering":
            self.cut()
            return
        if self.state == "head" or self.is_spare:
            self.write(refusal.answer(self.date))
        self._finish(is_read=True)

    def _is_read_too_slowly(self, now: float) -> bool:
        unsent = self._transport.get_write_buffer_size()
        if unsent == 0:
            self._reading_pace = None
            return False
        sent = self._written - unsent
        limits = self._all.limits
        if self._reading_pace is None:
            self._reading_pace = Pace(limits.transfer_seconds, limits.transfer_rate, now)
        else:
            self._reading_pace.moved(sent - self._sent, now)
        self._sent = sent
        return self._reading_pace.is_late(now)

    def _check_body(self, exchange: Exchange, now: float) -> None:
        if not self._is_reading or not exchange.pace.is_late(now):
            return
        if exchange.is_answered:
            self.cut()
            return
        limits = self._all.limits
        exchange.fail(
            Refused(
                408,
                "body_timeout",
                f"the body came slower than {limits.transfer_rate:g} bytes a second, or not at all "
                f"for {limits.transfer_seconds:g} s",
            )
        )

    # Reading

    def _advance(self) -> None:
        """Make of the received bytes what can be made of them."""
        try:
            while self._received and self.state != "closed":
                if self.state == "idle":
                    self._begin_head()
                if self.state == "head":
                    head = take_head(self._received, self._searched)
                    if head is None:
                        self._searched = len(self._received)
                        return
                    self._begin(head)
                elif self.state == "body":
                    self._take_body(cast(Exchange, self._exchange))
                    if self.state == "body":
                        return
                else:  # the next request waits for the answer to this one
                    self._read(False)
                    return
        except Refused as refusal:
            if self.state == "body":
                self._end_body(cast(Exchange, self._exchange), refusal)
            else:
                self._refuse(refusal)

    def _begin_head(self) -> None:
        self._enter("head")
        self._searched = 0

    def _begin(self, head: Head) -> None:
        if self.is_spare and not self._all.is_probe(head.path) and not self._crowd.try_admit(self):
            raise self._crowd.no_room()
        now, limits = self._all.clock(), self._all.limits
        pace = Pace(limits.transfer_seconds, limits.transfer_rate, now)
        is_streamed = self._all.is_streamed(head.method, head.path)
        exchange = Exchange(self, head, pace, is_streamed=is_streamed)
        if self.is_spare:
            exchange.closes = True
        self._exchange = exchange
        self._enter("answer" if exchange.is_complete else "body")
        scope = scope_of(head, self._address("sockname"), self._address("peername"))
        scope["state"] = self._app_state.copy()
        scope[BIND_KEY] = self._bind
        task = asyncio.get_running_loop().create_task(exchange.run(self._app, scope))
        self._all.tasks.add(task)
        task.add_done_callback(self._all.tasks.discard)
        # Not before: until then the app has the body, also where the client is gone.
        task.add_done_callback(lambda _: self._all.bodies.release(exchange))

    def _take_body(self, exchange: Exchange) -> None:
        data = exchange.framing.take(self._received)
        if data:
            exchange.pace.moved(len(data), self._all.clock())
        exchange.body_came(data)
        is_held = not exchange.is_streamed and not exchange.is_answered
        if is_held:
            self._all.bodies.hold(exchange, exchange.received)
        if exchange.is_complete:
            self._all.bodies.complete(exchange)
            self._enter("answer")
            if exchange.is_answered:
                self._rest()
        elif exchange.has_failed or exchange.is_full:
            self._read(False)

    def _end_body(self, exchange: Exchange, refusal: Refused) -> None:
        if exchange.is_answered:
            self.cut()
        else:
            exchange.fail(refusal)

    def _rest(self) -> None:
        """Wait for the next request; some of it may be there."""
        self._exchange = None
        self._enter("idle")
        self._read(True)

    # Closing

    def _refuse(self, refusal: Refused) -> None:
        self._all.count(refusal.reason)
        self.write(refusal.answer(self.date))
        self._finish(is_read=False)

    def _finish(self, *, is_read: bool) -> None:
        """Close once everything is sent. Where more comes than `is_read`, it is dropped for a
        while: closing at once would reset the connection and take the answer from the client."""
        self._received.clear()
        if is_read:
            self._enter("closed")
            self._transport.close()
            return
        self._enter("lingering")
        self._read(True)
        try:
            self._transport.write_eof()
        except OSError:  # the client reset the connection, and the transport has not seen it yet
            self.cut()

    def _enter(self, state: State) -> None:
        self._crowd.moved(self, self.state, state)
        self.state = state
        self.since = self._all.clock()

    def _read(self, on: bool) -> None:
        if on == self._is_reading or self._transport.is_closing():
            return
        self._is_reading = on
        if on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _address(self, name: str) -> tuple[str, int] | None:
        address = self._transport.get_extra_info(name)
        return (str(address[0]), int(address[1])) if isinstance(address, tuple) else None
