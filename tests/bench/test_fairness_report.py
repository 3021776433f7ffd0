"""The fairness table: medians of windows, times of the full batch, and when the bar is met."""

from __future__ import annotations

from collections import Counter

import pytest

from jumplora_bench.fairness_report import Window, fill
from jumplora_bench.report import Report

FULL, FLOOD = "in a full batch", "flood"


def window(p95: float, *, refused: int = 0, flood: dict[int, int] | None = None) -> Window:
    """Twenty answers; the second slowest is the 95th percentile."""
    return Window([p95 / 2] * 18 + [p95, 2 * p95], refused, Counter(flood or {}))


def row(found: dict[str, list[Window]], name: str = FLOOD) -> list[str]:
    report = Report("fairness", "Fairness", "jumplora bench fairness")
    fill(report, found, {FLOOD}, full=FULL, capacity=40.0)
    (grid,) = report.grids
    assert "capacity 40 requests/s" in grid.title
    (found_row,) = [list(each) for each in grid.rows if each[0] == name]
    assert len(found_row) == len(grid.columns)
    return found_row


def test_the_p95_of_a_window() -> None:
    assert window(0.1).p95 == 0.1
    assert Window().p95 is None


@pytest.mark.parametrize(
    ("windows", "times", "refused", "verdict"),
    [
        pytest.param([window(0.2)] * 3, "2.00", "0", "met", id="twice the full batch"),
        pytest.param([window(0.21)] * 3, "2.10", "0", "missed", id="more"),
        pytest.param(
            [window(0.1), window(9.0), window(0.15)], "1.50", "0", "met", id="the median window"
        ),
        pytest.param(
            [window(0.1), window(0.1, refused=1), window(0.1)], "1.00", "1", "missed", id="refused"
        ),
        pytest.param([window(0.1), Window(refused=8)], "", "8", "missed", id="a silent window"),
    ],
)
def test_a_bar(windows: list[Window], times: str, refused: str, verdict: str) -> None:
    found = row({FULL: [window(0.1)] * 3, FLOOD: windows})
    assert found[2:4] == [times, refused]
    assert found[-1] == verdict


def test_without_a_full_batch_nothing_is_met() -> None:
    found = row({FULL: [Window(refused=3)], FLOOD: [window(0.001)]})
    assert found[2] == ""
    assert found[-1] == "missed"


def test_what_is_no_bar_is_only_printed() -> None:
    full = row({FULL: [window(0.1)], FLOOD: [window(9.0)]}, FULL)
    assert full[1:] == ["100 (100)", "1.00", "0", "", ""]


def test_cells_tell_every_window_and_the_floods_answers() -> None:
    windows = [window(0.1, flood={200: 5, 429: 2}), Window(flood=Counter({503: 1, 0: 9}))]
    found = row({FULL: [window(0.1)], FLOOD: windows})
    assert found[1] == "- (100, -)"
    assert found[4] == "5/2/1"


def test_the_record_keeps_each_window() -> None:
    report = Report("fairness", "Fairness", "jumplora bench fairness")
    fill(
        report,
        {FULL: [window(0.1), Window(refused=2, flood=Counter({429: 3, 200: 1}))]},
        (),
        full=FULL,
        capacity=1.5,
    )
    assert report.data == {
        "capacity_per_second": 1.5,
        "windows": {
            FULL: [
                {"p95_seconds": 0.1, "answered": 20, "refused": 0, "flood": {}},
                {
                    "p95_seconds": None,
                    "answered": 0,
                    "refused": 2,
                    "flood": {"200": 1, "429": 3},
                },
            ]
        },
    }
