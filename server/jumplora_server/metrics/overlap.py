"""Overlap of served adapters, pair by pair, read at a scrape.

A pair is exposed only while both tasks have labels (not `_other`) and serve the versions that were
compared: so nothing has to be dropped when a version or a task goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.registry import Collector

from jumplora_server.metrics.table import ADAPTER_OVERLAP_CHANCE, ADAPTER_OVERLAP_JACCARD


@dataclass(frozen=True, slots=True)
class OverlapSnapshot:
    """Two tasks, sorted, with the versions that were compared, and what was found."""

    tasks: tuple[str, str]
    versions: tuple[str, str]
    jaccard: float
    chance: float


class OverlapCollector(Collector):
    """Holds the newest snapshots. Their maker bounds their number."""

    def __init__(
        self, label_of: Callable[[str], str], version_of: Callable[[str], str | None]
    ) -> None:
        """`label_of` gives a task's label value, `version_of` the version that it serves."""
        self._label_of = label_of
        self._version_of = version_of
        self._overlaps: tuple[OverlapSnapshot, ...] = ()

    def set(self, overlaps: Iterable[OverlapSnapshot]) -> None:
        """Replace all pairs."""
        self._overlaps = tuple(overlaps)

    def describe(self) -> Iterable[Metric]:
        """Name the families, so that the registry refuses a second owner of a name."""
        return [ADAPTER_OVERLAP_JACCARD.family(), ADAPTER_OVERLAP_CHANCE.family()]

    def collect(self) -> Iterator[Metric]:
        """Yield both families."""
        jaccard, chance = ADAPTER_OVERLAP_JACCARD.family(), ADAPTER_OVERLAP_CHANCE.family()
        for overlap in self._overlaps:
            if self._is_current(overlap):
                jaccard.add_metric(overlap.tasks, overlap.jaccard)
                chance.add_metric(overlap.tasks, overlap.chance)
        yield jaccard
        yield chance

    def _is_current(self, overlap: OverlapSnapshot) -> bool:
        return all(
            self._label_of(task) == task and self._version_of(task) == version
            for task, version in zip(overlap.tasks, overlap.versions, strict=True)
        )
