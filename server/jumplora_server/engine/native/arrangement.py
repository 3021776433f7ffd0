"""How the rows of a decode step stand: those with most in common are neighbours."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

from jumplora_server.engine.native.layout import DeltaStruct
from jumplora_server.engine.native.work import Lineage, Work, decode_work, ids, trunk_of

Tables = tuple[tuple["ctypes.Array[DeltaStruct]", ...], ...]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """What a step's lineages alone decide. It keeps no adapter in memory, but the small tables, so
    that another adapter's table cannot be mistaken for one of them."""

    order: list[int]  # which row is computed first, second, ...
    places: list[int]  # where each row is computed
    work: Work
    tables: Tables

    @classmethod
    def of(cls, lineages: Sequence[Lineage], sites: int) -> Arrangement:
        """Rows of equal lineages stay as they were given."""
        order = decode_order(lineages)
        places = sorted(range(len(order)), key=order.__getitem__)
        work = decode_work([lineages[n] for n in order], sites)
        return cls(order, places, work, tables_of(lineages))

    def holds(self, lineages: Sequence[Lineage]) -> bool:
        """Whether it is these lineages' arrangement: most steps have the rows of the last one."""
        return self.tables == tables_of(lineages)  # tables are equal where they are the same


def tables_of(lineages: Sequence[Lineage]) -> Tables:
    """The tables of each lineage."""
    return tuple([tuple([adapter.table for adapter in lineage]) for lineage in lineages])


def decode_order(lineages: Sequence[Lineage]) -> list[int]:
    """The numbers of rows so that those with most in common are neighbours; equals as they were."""
    keys = [ids(x) if trunk_of(x) else (0, *ids(x)) for x in lineages]
    return sorted(range(len(keys)), key=keys.__getitem__)
