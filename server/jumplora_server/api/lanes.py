"""Two threads for work on what requests send: one for small ones, one for large ones.

A small request never waits behind a large one. Large ones take turns, whatever their number: in
their thread they share the interpreter with the event loop, on which each would hold up all others
once a turn; and together they take one core at most.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from anyio import CapacityLimiter


def _one() -> CapacityLimiter:
    return CapacityLimiter(1)


@dataclass(frozen=True, slots=True)
class Lanes:
    """Limiters for `anyio.to_thread`, whose common one may be used up by waits for a disk."""

    small: CapacityLimiter = field(default_factory=_one)
    large: CapacityLimiter = field(default_factory=_one)
