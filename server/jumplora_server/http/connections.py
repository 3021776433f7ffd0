"""All connections of one server: what they share, and the clock that looks at them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from uvicorn.server import ServerState

from jumplora_server.binds import BindName
from jumplora_server.http.bodies import Bodies
from jumplora_server.http.connection import READ_BYTES, SMALL_READ_BYTES, Connection
from jumplora_server.http.crowd import Crowd
from jumplora_server.http.limits import (
    SIDE_CONNECTIONS,
    SIDE_SPARES,
    SPARE_CONNECTIONS,
    HttpLimits,
)
from jumplora_server.http.refusal import Reason, Refused

AT_ONCE = 512  # connections that are looked at without a pause, in a millisecond


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the server has to know of the app: the paths of probes, which are answered when all
    room is taken; which requests put their bodies away as they come; what counts refusals."""

    probes: frozenset[str] = frozenset()
    is_streamed: Callable[[str, str], bool] = lambda method, path: False
    on_refusal: Callable[[Reason], None] = lambda reason: None
    on_connections: Callable[[int], None] = lambda count: None


class Connections:
    """Each bind has a crowd of its own, so that a flood of one keeps no other from answering."""

    def __init__(
        self,
        limits: HttpLimits,
        traffic: Traffic,
        uvicorn_state: ServerState,
        monotonic: Callable[[], float],
    ) -> None:
        self.limits: Final = limits
        self.bodies: Final = Bodies(limits.held_body_bytes, self.clock)
        self.tasks: Final = uvicorn_state.tasks
        # One buffer for all: what was read is copied out before another connection reads.
        self.inbox: Final = memoryview(bytearray(READ_BYTES))
        self.small_inbox: Final = self.inbox[:SMALL_READ_BYTES]
        self._monotonic = monotonic
        self._looked = monotonic()
        self._unwatched = 0.0  # seconds in which the process stood still
        self._traffic = traffic
        self._state = uvicorn_state
        self.open: Final[set[Connection]] = uvicorn_state.connections  # type: ignore[assignment]
        self._crowds: dict[BindName, Crowd] = {
            "main": Crowd(limits.connections, SPARE_CONNECTIONS),
            "admin": Crowd(SIDE_CONNECTIONS, SIDE_SPARES),
            "metrics": Crowd(SIDE_CONNECTIONS, SIDE_SPARES),
        }
        self._timer: asyncio.TimerHandle | None = None

    # Called by connections

    def clock(self) -> float:
        """Seconds in which clients could be waited for: a process that was stopped, or whose event
        loop was held up, does not blame them for it."""
        return self._monotonic() - self._unwatched

    def crowd(self, bind: BindName) -> Crowd:
        """The connections of one bind."""
        return self._crowds[bind]

    def opened(self, connection: Connection) -> None:
        """Count one more."""
        self.open.add(connection)
        self._traffic.on_connections(len(self.open))

    def closed(self, connection: Connection) -> None:
        """Count one less."""
        self.open.discard(connection)
        self._traffic.on_connections(len(self.open))

    def count(self, reason: Reason) -> None:
        """Count a refusal."""
        self._traffic.on_refusal(reason)

    def is_probe(self, path: str) -> bool:
        """Whether a request for that path is answered even where there is no room."""
        return path in self._traffic.probes

    def is_streamed(self, method: str, path: str) -> bool:
        """Whether the app puts the body of such a request away as it comes."""
        return self._traffic.is_streamed(method, path)

    @property
    def date(self) -> bytes:
        """The date field of answers, with its line end; uvicorn renews it once a second."""
        return b"".join(b"%b: %b\r\n" % field for field in self._state.default_headers)

    # Called by the server

    def watch(self) -> None:
        """Look at all connections from now on, several times a limit."""
        period = self.limits.sweep_seconds
        self._timer = asyncio.get_running_loop().call_later(period, self.watch)
        elapsed = self._monotonic() - self._looked
        self._looked += elapsed
        self._unwatched += max(0.0, elapsed - 2 * period)
        self._check(list(self.open), self.clock())

    def stop_watching(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def make_room(self, refusal: Refused) -> None:
        """Close the main bind's connection that waits longest, if there is one, else another's."""
        any(crowd.make_room(refusal) for crowd in self._crowds.values())

    def _check(self, left: list[Connection], now: float) -> None:
        """Check them in parts, between which the event loop does its other work."""
        for connection in left[-AT_ONCE:]:
            if connection in self.open:
                connection.check(now)
        del left[-AT_ONCE:]
        if left:
            asyncio.get_running_loop().call_soon(self._check, left, now)
