"""How long and how much the HTTP server waits for a client, and the pace a transfer has to keep."""

from __future__ import annotations

from dataclasses import dataclass

MAX_HEAD_BYTES = 16 * 1024
MAX_TARGET_BYTES = 8 * 1024
MAX_FIELDS = 100
FREE_BODY_BYTES = 16 * 1024  # a body up to this size is always taken
LINGER_SECONDS = 5.0  # what a client still sends after its last answer is read and dropped
SPARE_CONNECTIONS = 64  # above the cap, for probes


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Seconds and bytes; `transfer_rate` is in bytes a second, `connections` counts all of them."""

    head_seconds: float
    idle_seconds: float
    transfer_seconds: float
    transfer_rate: float
    connections: int
    held_body_bytes: int

    @property
    def sweep_seconds(self) -> float:
        """The time between two looks at the connections: a limit is overrun by a tenth of it."""
        shortest = min(self.head_seconds, self.idle_seconds, self.transfer_seconds)
        return min(1.0, max(0.01, shortest / 10))


class Pace:
    """Whether bytes come, or go, fast enough: `rate` on average, never `patience` seconds idle.

    Each byte moves the deadline by its share of a second, and never further than `patience` from
    now, so that a fast start buys no long rest.
    """

    __slots__ = ("_deadline", "_patience", "_rate")

    def __init__(self, patience: float, rate: float, now: float) -> None:
        self._patience = patience
        self._rate = rate
        self._deadline = now + patience

    def moved(self, count: int, now: float) -> None:
        """Note that `count` bytes were transferred."""
        self._deadline = min(now + self._patience, self._deadline + count / self._rate)

    def restart(self, now: float) -> None:
        """Forget the past, after a time in which the server did not wait for the client."""
        self._deadline = now + self._patience

    def is_late(self, now: float) -> bool:
        """Whether the transfer is to be given up."""
        return now >= self._deadline
