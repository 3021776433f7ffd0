"""The report of `jumplora bench fairness`."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from jumplora_bench.answers import percentile
from jumplora_bench.bars import verdict
from jumplora_bench.report import Grid, Report

MOST_TIMES = 2.0  # of the 95th percentile in a full batch


@dataclass(slots=True)
class Window:
    """Seconds of the quiet task's answers, how many of its requests got none, and the flood's
    answers by status."""

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    flood: Counter[int] = field(default_factory=Counter)

    @property
    def p95(self) -> float | None:
        """None where nothing was answered."""
        return percentile(self.seconds, 0.95) if self.seconds else None


def fill(
    report: Report,
    found: Mapping[str, Sequence[Window]],
    bars: Collection[str],
    *,
    full: str,
    capacity: float,
) -> None:
    """One line a scenario: the median of its windows beside that of the full batch."""
    base = _median(found[full])
    rows = []
    for name, windows in found.items():
        middle = _median(windows)
        refused = max(window.refused for window in windows)
        times = None if middle is None or base is None else middle / base
        is_met = None
        if name in bars:
            is_met = times is not None and times <= MOST_TIMES and not refused
        ratio = "" if times is None else f"{times:.2f}"
        told = (str(refused), _statuses(windows), verdict(is_met))
        rows.append([name, _milliseconds(windows), ratio, *told])
    report.grids.append(
        Grid(
            f"The quiet task; capacity {capacity:.0f} requests/s; at most {MOST_TIMES:g} times the "
            "full batch, none refused",
            [
                "beside",
                "p95 ms, median (windows)",
                "times",
                "refused, most",
                "flood: 200/429/503",
                "bar",
            ],
            rows,
        )
    )
    report.notes.append(
        "p95: of the quiet answers, timed from when each was due. Times: of the p95 in a full "
        "batch (steady clients of another task, nothing queueing). Refused: quiet requests without "
        "an answer, in the worst window. Bar: met where the times are at most "
        f"{MOST_TIMES:g} and none was refused. Floods and server share this machine's cores."
    )
    report.data = {
        "capacity_per_second": capacity,
        "windows": {
            name: [
                {
                    "p95_seconds": window.p95,
                    "answered": len(window.seconds),
                    "refused": window.refused,
                    "flood": {str(status): n for status, n in sorted(window.flood.items())},
                }
                for window in windows
            ]
            for name, windows in found.items()
        },
    }


def _median(windows: Sequence[Window]) -> float | None:
    values = [window.p95 for window in windows]
    answered = [value for value in values if value is not None]
    return statistics.median(answered) if len(answered) == len(values) else None


def _milliseconds(windows: Sequence[Window]) -> str:
    middle = _median(windows)
    each = ", ".join("-" if w.p95 is None else f"{1000 * w.p95:.0f}" for w in windows)
    return f"{'-' if middle is None else f'{1000 * middle:.0f}'} ({each})"


def _statuses(windows: Sequence[Window]) -> str:
    total: Counter[int] = sum((window.flood for window in windows), Counter())
    return "/".join(str(total[status]) for status in (200, 429, 503)) if total else ""
