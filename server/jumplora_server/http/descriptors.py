"""How many files and connections the process may have open."""

from __future__ import annotations

import logging
import resource

RESERVED = 256  # for the store, the libraries and what is being accepted
_log = logging.getLogger(__name__)


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


def allowed_connections(wanted: int, open_files: int) -> int:
    """`wanted`, or as many connections as that many open files leave room for."""
    if open_files < 0:  # unlimited
        return wanted
    allowed = max(16, open_files - RESERVED)
    if allowed < wanted:
        _log.warning(
            "%d connections at most instead of %d: only %d files may be open; raise the hard limit "
            "(ulimit -Hn, LimitNOFILE=) or lower JUMPLORA_MAX_CONNECTIONS",
            allowed,
            wanted,
            open_files,
        )
    return min(wanted, allowed)
