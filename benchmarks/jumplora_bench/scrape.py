"""Numbers out of /metrics: sums and counts of histograms, before and after a window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Window:
    """What a histogram took in between two scrapes."""

    sum: float
    count: float

    @property
    def mean(self) -> float:
        """0 when nothing was observed."""
        return self.sum / self.count if self.count else 0.0


def value(page: str, name: str, labels: Mapping[str, str] | None = None) -> float:
    """The sum of the samples of that name that have (at least) these labels; 0 without any."""
    wanted = (labels or {}).items()
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and wanted <= sample.labels.items()
    )


def window(
    before: str, after: str, histogram: str, labels: Mapping[str, str] | None = None
) -> Window:
    """Sum and count of a histogram, all series with these labels together."""
    total, count = (
        value(after, f"{histogram}_{part}", labels) - value(before, f"{histogram}_{part}", labels)
        for part in ("sum", "count")
    )
    return Window(total, count)
