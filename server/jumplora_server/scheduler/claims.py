"""What the scheduler must know of residency."""

from __future__ import annotations

from typing import Literal, Protocol

from jumplora_server.core import AdapterRef

Priority = Literal["normal", "low"]


class SlotClaims(Protocol):
    """Who knows where versions are loaded."""

    def claim(self, ref: AdapterRef, priority: Priority) -> tuple[int, ...] | None:
        """Count one encoding on `ref` and return the slots of its lineage, in its order.

        None while it is not loaded; this call asks for its load. Raises AdapterUnavailable when
        the load failed. "low" may use a version that is not in service yet.
        """

    def unclaim(self, ref: AdapterRef) -> None:
        """Give one encoding back."""
