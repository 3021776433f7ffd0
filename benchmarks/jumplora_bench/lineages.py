"""The lineages of a batch's rows: what they share is what a case is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from jumplora_adapters.format import Adapter
from jumplora_bench.masked import TURNS, Family, rolled
from jumplora_bench.names import (
    CHAIN,
    LINEAGES,
    chains_name,
    depths_name,
    lineage_name,
)

Lineage = Sequence[Adapter]
"""A version and those that it stands on, oldest first."""


@dataclass(frozen=True, slots=True)
class LineageCase:
    """`lineages` yields a row's lineage at a time, from what the family's members are."""

    name: str
    family: Family
    lineages: Callable[[Sequence[Adapter]], Iterator[Lineage]]


def lineage_cases(rows: int, dtype: str) -> list[LineageCase]:
    """Leaves of one chain, depths of one chain, ends of different chains."""
    families = [Family(slots - 1, rows, density, union) for slots, density, union in LINEAGES]
    several = min(rows, TURNS)
    chain = next(family for family in families if family.length == CHAIN[0])

    def leaves(members: Sequence[Adapter]) -> Iterator[Lineage]:
        ancestors = members[: len(members) - rows]
        for leaf in members[len(ancestors) :]:
            yield [*ancestors, leaf]

    def depths(members: Sequence[Adapter]) -> Iterator[Lineage]:
        for row in range(rows):
            yield members[: chain.length - row % several]

    def chains(members: Sequence[Adapter]) -> Iterator[Lineage]:
        # Drawing as many chains would take minutes and the memory of all of them at once.
        for row in range(rows):
            yield [rolled(each, row % several) for each in members[: chain.length]]

    return [
        *(LineageCase(lineage_name(each.length, dtype), each, leaves) for each in families),
        LineageCase(depths_name(several, dtype), chain, depths),
        LineageCase(chains_name(several, dtype), chain, chains),
    ]
