"""The connections of one bind: their number, their order, and which one makes room."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from jumplora_server.http.refusal import Refused

if TYPE_CHECKING:
    from jumplora_server.http.connection import Connection, State


class Crowd:
    """Above the cap the one that waits longest, for a request or the rest of its head, makes room.

    Where all are busy, a few more are let in, of which only probes are answered.
    """

    def __init__(self, cap: int, spares: int) -> None:
        self._cap = cap
        self._most_spares = spares
        self._count = 0
        self._waiting: dict[State, dict[Connection, None]] = {
            "lingering": {},
            "head": {},
            "idle": {},
        }
        self._spares: dict[Connection, None] = {}

    def opened(self, connection: Connection) -> None:
        """Count one more; where there are too many, another makes room, or this one has none."""
        self._count += 1
        if self._count <= self._cap:
            return
        connection.is_spare = True
        if self.make_room(self.no_room()):
            connection.is_spare = False
            return
        if len(self._spares) >= self._most_spares:
            first = next((c for c in self._spares if c.state in self._waiting), connection)
            first.make_room(self.no_room())
        if connection.state != "closed":
            self._spares[connection] = None

    def try_admit(self, spare: Connection) -> bool:
        """Count a spare one among the others; False where there is still no room."""
        is_full = self._count - len(self._spares) >= self._cap
        if is_full and not self.make_room(self.no_room()):
            return False
        self._spares.pop(spare, None)
        spare.is_spare = False
        return True

    def closed(self, connection: Connection) -> None:
        """Count one less."""
        self._count -= 1
        self._spares.pop(connection, None)

    def moved(self, connection: Connection, before: State, after: State) -> None:
        """Keep those that wait in the order in which they began to."""
        if (were := self._waiting.get(before)) is not None:
            were.pop(connection, None)
        if (are := self._waiting.get(after)) is not None:
            are[connection] = None

    def make_room(self, refusal: Refused) -> bool:
        """Close the one that waits longest; whether there was one. `refusal` says why."""
        longest = min(self._longest(), key=lambda c: c.since, default=None)
        if longest is None:
            return False
        longest.make_room(refusal)
        return True

    def no_room(self) -> Refused:
        """The answer to a connection above the cap."""
        return Refused(
            503,
            "connections",
            f"{self._cap} connections are open, and no more are allowed; try again "
            "later, or keep fewer open",
        )

    def _longest(self) -> Iterable[Connection]:
        for waiting in self._waiting.values():
            found = next((c for c in waiting if not c.is_spare), None)
            if found is not None:
                yield found
