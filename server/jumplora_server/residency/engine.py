"""What residency needs of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeVar

from jumplora_adapters.format import Adapter
from jumplora_server.core import Lease
from jumplora_server.residency.entries import Replay

WarmUp = Callable[[Lease], Future[None]]
"""Runs a version that is not in service yet; the future raises when that fails."""


ReplayCanaries = Callable[[Lease], Replay | None]
"""What a version answers to its canaries, None where it has none.

For the loader's thread: waits until all have ended. Raises when the version is to be refused.
"""


class Packed(Protocol):
    """An adapter in the form the engine applies."""

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the engine."""

    @property
    def nnz(self) -> int:
        """Non-zero entries."""

    @property
    def density(self) -> float:
        """Share of its targets' entries that it may change: 1 for a low-rank one."""


P = TypeVar("P", bound=Packed)


class Folds(Protocol):
    """What it takes to decide which lineages are folded."""

    @property
    def can_fold(self) -> bool:
        """Whether this engine makes trunks at all."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the backbone's weights."""

    def trunk_bytes(self, sites: Iterable[str]) -> int:
        """Bytes of a trunk whose versions have these targets.

        Raises KeyError for a name that is not a site of the backbone.
        """


class AdapterEngine(Folds, Protocol[P]):
    """Packs adapters and keeps them in slots; any thread."""

    @property
    def device(self) -> str:
        """Where the slots are: "cpu" or a device."""

    def pack(self, adapter: Adapter) -> P:
        """Bring an adapter into the engine's form; CPU heavy."""

    def fold(self, adapters: Sequence[Adapter]) -> P:
        """Merge a lineage's first versions, oldest first, into a trunk; CPU heavy."""

    def install(self, packed: P) -> int:
        """Make it addressable; returns its slot."""

    def remove(self, slot: int) -> None:
        """Forget a slot that no live sequence uses."""
