"""The adapters that are resident in the engine: packed off the path, installed into slots.

A slot holds one version's own deltas; a row that serves a lineage names several slots. Who may be
resident is residency's decision; the bank only holds what it is given.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from jumplora_adapters.delta import Delta
from jumplora_adapters.density import pooled_density
from jumplora_adapters.format import Adapter


class Resident(Protocol):
    """A form of one module's delta, of which only its size is known here."""

    @property
    def nbytes(self) -> int: ...


F = TypeVar("F", bound=Resident, covariant=True)


@dataclass(frozen=True, slots=True)
class PackedAdapter(Generic[F]):
    """One version's own deltas in the forms that a runner applies."""

    version: str
    forms: Mapping[str, F]  # module name -> form
    nbytes: int  # resident bytes
    nnz: int
    density: float  # share of its modules' entries that it may change: 1 for a low-rank one


def packed(adapter: Adapter, make_form: Callable[[Delta], F]) -> PackedAdapter[F]:
    """Bring an adapter into its engine form. CPU heavy; runs on the loader's thread."""
    forms = {module: make_form(delta) for module, delta in adapter.deltas.items()}
    return PackedAdapter(
        version=adapter.digest,
        forms=forms,
        nbytes=sum(form.nbytes for form in forms.values()),
        nnz=sum(delta.nnz for delta in adapter.deltas.values()),
        density=pooled_density(adapter.deltas),
    )


class Bank(Generic[F]):
    """Slot number -> packed adapter. Slot numbers are never reused, so none can be mistaken."""

    def __init__(self) -> None:
        self._slots: dict[int, PackedAdapter[F]] = {}
        self._next = 0
        self._lock = threading.Lock()

    def install(self, packed: PackedAdapter[F]) -> int:
        """Make an adapter addressable; any thread."""
        with self._lock:
            slot = self._next
            self._next += 1
            self._slots[slot] = packed
        return slot

    def remove(self, slot: int) -> None:
        """Forget a slot that no live sequence uses; any thread.

        Raises:
            KeyError: the slot is not installed.
        """
        with self._lock:
            del self._slots[slot]

    def lineage(self, slots: tuple[int, ...]) -> tuple[PackedAdapter[F], ...]:
        """What a lineage's slots hold, in its order."""
        return tuple(self._slots[slot] for slot in slots)

    @property
    def nbytes(self) -> int:
        """Resident bytes of all slots."""
        with self._lock:
            return sum(packed.nbytes for packed in self._slots.values())
