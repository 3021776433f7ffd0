"""What one engine has installed: every adapter and every trunk once, and what each is made of."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.format import Adapter
from jumplora_bench.cases.ours import Slots
from jumplora_server.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class Part:
    """A slot: the delta of one version, or a trunk that stands in for the q and v it changes.

    Non-zeros are counted apart: those of modules that compute once a prompt, and those of modules
    that every token of an answer goes through. A trunk has none.
    """

    slot: int
    nbytes: int  # in the engine
    own_bytes: int = 0  # in the file
    encoded: int = 0
    decoded: int = 0
    trunk: int = 0  # how many versions are folded into it
    fold_seconds: float = 0.0


Row = tuple[Part, ...]
"""What one row applies, in its order."""


def slots_of(rows: Iterable[Row]) -> list[Slots]:
    """As a case takes them."""
    return [tuple(part.slot for part in row) for row in rows]


def distinct(rows: Iterable[Row]) -> list[Part]:
    """All parts, each once."""
    return list(dict.fromkeys(part for row in rows for part in row))


class Installed:
    """An engine and its parts. A digest names an adapter."""

    def __init__(self, engine: Engine, backbone: Backbone) -> None:
        self.engine = engine
        self._sites = backbone.sites
        self._deltas: dict[str, Part] = {}
        self._trunks: dict[tuple[str, ...], Part] = {}

    def deltas(self, adapters: Sequence[Adapter]) -> Row:
        """A slot for each adapter."""
        new = [adapter for adapter in adapters if adapter.digest not in self._deltas]
        with ThreadPoolExecutor() as threads:
            packed = list(threads.map(self.engine.pack, new))
        for adapter, each in zip(new, packed, strict=True):
            counts = [0, 0]
            for name, delta in adapter.deltas.items():
                counts[self._sites[name].is_decoded] += delta.nnz
            self._deltas[adapter.digest] = Part(
                self.engine.install(each),
                each.nbytes,
                sum(delta.nbytes for delta in adapter.deltas.values()),
                *counts,
            )
        return tuple(self._deltas[adapter.digest] for adapter in adapters)

    def trunk(self, ancestors: Sequence[Adapter]) -> Part:
        """The slot of these versions folded, oldest first."""
        key = tuple(adapter.digest for adapter in ancestors)
        if key not in self._trunks:
            began = time.perf_counter()
            packed = self.engine.fold(ancestors)
            seconds = time.perf_counter() - began
            self._trunks[key] = Part(
                self.engine.install(packed),
                packed.nbytes,
                trunk=len(ancestors),
                fold_seconds=seconds,
            )
        return self._trunks[key]

    def folded(self, lineage: Sequence[Adapter], depth: int) -> Row:
        """The first `depth` versions as a trunk, then a slot for each of the others."""
        trunk = (self.trunk(lineage[:depth]),) if depth else ()
        return (*trunk, *self.deltas(lineage[depth:]))
