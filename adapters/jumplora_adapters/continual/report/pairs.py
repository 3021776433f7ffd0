"""Overlap of two tasks' own supports, over the seeds of a group."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

from jumplora_adapters.continual.report.groups import Group
from jumplora_adapters.continual.report.runs import Pair


@dataclass(frozen=True, slots=True)
class MeanPair:
    """Means over the seeds; the tasks by their places in the order, the earlier one first."""

    first: int
    second: int
    jaccard: float
    chance: float


def mean_pairs(group: Group) -> tuple[MeanPair, ...]:
    """Empty where the updates are dense. A pair that a seed lacks is the mean of the others."""
    place = {task: n for n, task in enumerate(group.tasks)}
    found: dict[tuple[int, int], list[Pair]] = {}
    for run in group.runs:
        for pair in run.pairs:
            if pair.first in place and pair.second in place:
                key = tuple(sorted((place[pair.first], place[pair.second])))
                found.setdefault((key[0], key[1]), []).append(pair)
    return tuple(
        MeanPair(
            first,
            second,
            mean(pair.jaccard for pair in pairs),
            mean(pair.chance for pair in pairs),
        )
        for (first, second), pairs in sorted(found.items())
    )
