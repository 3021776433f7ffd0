"""The memory of all request bodies together: a budget that large ones share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from jumplora_server.http.limits import FREE_BODY_BYTES
from jumplora_server.http.refusal import Refused

YIELD_SECONDS = 2.0  # a body that takes longer to arrive gives way where there is no room


class Receiving(Protocol):
    """A request whose body is held (exchange.py)."""

    def fail(self, refusal: Refused) -> None:
        """End the request with that answer."""


class Bodies:
    """Counts what is held of each body, from its first byte beyond the free allowance until the app
    has ended. Small bodies never wait for large ones, since they are not counted.

    Where the budget is passed, the unfinished body that came longest ago gives way if it had its
    `YIELD_SECONDS`; else the one that passed it does. So clients that never finish their bodies
    keep out only each other, and a newcomer does not make the others start over.
    """

    def __init__(self, budget_bytes: int, clock: Callable[[], float]) -> None:
        self._budget = budget_bytes
        self._clock = clock
        self._held: dict[Receiving, int] = {}
        self._arriving: dict[Receiving, float] = {}  # since when, oldest first
        self.total = 0

    def hold(self, owner: Receiving, size: int) -> None:
        """Note that `size` bytes of the owner's body are held by now."""
        if size <= FREE_BODY_BYTES:
            return
        now = self._clock()
        self._arriving.setdefault(owner, now)
        self.total += size - self._held.get(owner, 0)
        self._held[owner] = size
        while self.total > self._budget:
            oldest = next(iter(self._arriving))
            loser = oldest if now - self._arriving[oldest] >= YIELD_SECONDS else owner
            self.release(loser)
            loser.fail(self._refusal())
            if loser is owner:
                return

    def complete(self, owner: Receiving) -> None:
        """Note that no more of the owner's body comes, so that it cannot give way any more."""
        self._arriving.pop(owner, None)

    def release(self, owner: Receiving) -> None:
        """Forget the owner's body."""
        self._arriving.pop(owner, None)
        self.total -= self._held.pop(owner, 0)

    def _refusal(self) -> Refused:
        return Refused(
            503,
            "bodies",
            f"the bodies of all requests together have more than {self._budget} bytes; try again "
            f"later, or send less than {FREE_BODY_BYTES} bytes, for which there is always room",
        )
