"""How long and how much the HTTP server waits for a client, and how many connections it takes."""

from __future__ import annotations

import logging
import resource
from dataclasses import dataclass

MAX_HEAD_BYTES = 16 * 1024
MAX_TARGET_BYTES = 8 * 1024
MAX_FIELDS = 100
FREE_BODY_BYTES = 16 * 1024  # a body up to this size is always taken
LINGER_SECONDS = 5.0  # what a client still sends after its last answer is read and dropped
SPARE_CONNECTIONS = 64  # above the cap, for probes
# Of each bind beside the main one, beyond the main one's cap: a flood there takes none of them.
SIDE_CONNECTIONS = 64
SIDE_SPARES = 8
RESERVED_FILES = 256  # for the store, the libraries and what is being accepted
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Seconds and bytes; `transfer_rate` is in bytes a second, `connections` the main bind's."""

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


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            _log.warning("the limit of open files stays at %d: %s", soft, error)
            return soft
    return hard


def allowed_connections(wanted: int, open_files: int, sides: int = 0) -> int:
    """`wanted`, or as many connections as that many open files leave room for beside the ones of
    `sides` further binds."""
    if open_files < 0:  # unlimited
        return wanted
    reserved = RESERVED_FILES + sides * (SIDE_CONNECTIONS + SIDE_SPARES)
    allowed = max(16, open_files - reserved)
    if allowed < wanted:
        _log.warning(
            "%d connections at most instead of %d: only %d files may be open; raise the hard limit "
            "(ulimit -Hn, LimitNOFILE=) or lower JUMPLORA_MAX_CONNECTIONS",
            allowed,
            wanted,
            open_files,
        )
    return min(wanted, allowed)
