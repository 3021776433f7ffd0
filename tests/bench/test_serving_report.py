"""The serving benchmark's tables, bars and plots, from made-up measurements with known answers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from jumplora_bench.answers import Answer, Slo, summarize
from jumplora_bench.disturbance import Disturbance, Side
from jumplora_bench.plots import LinePlot
from jumplora_bench.report import Grid, Report
from jumplora_bench.serving_report import LowLoad, RateRun, Saturation, ServingFound, fill

SLO = Slo(ttft=1.0, tpot=0.5)


def filled(found: ServingFound) -> Report:
    report = Report("serving", "Serving", "jumplora bench serving")
    fill(report, found)
    json.dumps(report.data, allow_nan=False)  # as it is written
    return report


def saturation(whole: float = 96.0, failed: int = 0) -> Saturation:
    """Engine: 100 tokens/s in the median. Streamed answers: 90."""
    return Saturation(
        engine=[100.0, 80.0, 120.0],
        served={"whole": [whole, 70.0, 120.0], "streamed": [90.0, 70.0, 110.0]},
        client_cpu=[0.1, 0.3, 0.2],
        failed={"whole": failed, "streamed": 0},
    )


def disturbance(step: float = 0.011, failed: int = 0) -> Disturbance:
    quiet = Side([0.010] * 3, [0.1] * 3, [0.010, 0.009, 0.012], [7.5] * 3, [0.2, 0.3])
    disturbed = Side([0.011] * 3, [0.2] * 3, [step] * 3, [7.0] * 3, [0.4], failed)
    return Disturbance(quiet, disturbed, [0.01, 0.03, 0.02], [1.0, 3.0], 30_000_000)


def held(report: Report) -> dict[str, tuple[str, ...]]:
    """The rows of the first table by their measure."""
    return {row[0]: tuple(row[1:]) for row in report.grids[0].rows}


def test_throughput_is_held_against_the_engine() -> None:
    report = filled(ServingFound(SLO, 2, saturation=saturation()))
    rows = held(report)
    assert rows["throughput at saturation, answers whole, tokens/s"] == (
        "96.0 (70.0-120.0)", "100.0 (80.0-120.0)", "0.960", ">= 0.95", "met",
    )  # fmt: skip
    assert rows["throughput at saturation, answers streamed, tokens/s"][2:] == (
        "0.900", ">= 0.95", "missed",
    )  # fmt: skip
    assert "at most 0.30 of a core" in report.notes[0]


def test_a_throughput_with_failed_requests_meets_no_bar() -> None:
    rows = held(filled(ServingFound(SLO, 2, saturation=saturation(failed=2))))
    assert rows["throughput at saturation, answers whole, tokens/s (2 FAILED)"][-1] == "missed"


@pytest.mark.parametrize(
    ("served", "failed", "added", "verdict"),
    [
        pytest.param([0.1029, 0.2, 0.09], 0, "+2.9 ms", "met", id="within 3 ms"),
        pytest.param([0.1032, 0.2, 0.09], 0, "+3.2 ms", "missed", id="over"),
        pytest.param([0.0990, 0.2, 0.09], 0, "-1.0 ms", "met", id="faster than the engine"),
        pytest.param([0.0990, 0.2, 0.09], 1, "-1.0 ms", "missed", id="fast, but one failed"),
    ],
)
def test_one_request_alone(served: list[float], failed: int, added: str, verdict: str) -> None:
    alone = LowLoad("whole", [0.1, 0.1, 0.1], served, failed)
    (row,) = filled(ServingFound(SLO, 1, low_load=[alone])).grids[0].rows
    assert row[3] == added
    assert row[-1] == verdict
    assert ("FAILED" in row[0]) == bool(failed)


@pytest.mark.parametrize(
    ("found", "ratio", "verdict"),
    [
        pytest.param(disturbance(0.0105), "1.050", "met", id="5 % slower"),
        pytest.param(disturbance(0.0125), "1.250", "missed", id="25 % slower"),
        pytest.param(disturbance(0.0105, failed=3), "1.050", "missed", id="requests failed"),
    ],
)
def test_disturbed_steps(found: Disturbance, ratio: str, verdict: str) -> None:
    report = filled(ServingFound(SLO, 1, disturbance=found))
    (row,) = report.grids[0].rows
    assert (row[3], row[-1]) == (ratio, verdict)
    sides = report.grids[1]
    assert sides.title.endswith("one upload of 30.0 MB")
    assert [row[:5] for row in sides.rows] == [
        ("quiet", "10.00", "100.00", "7.50", "200/300/300"),
        ("disturbed", "11.00", "200.00", "7.00", "400/400/400"),
    ]
    assert "3 scrapes took 20.0 ms each (median; at most 30)" in report.notes[0]
    assert "an upload 2.00 s until its version answered (median; at most 3.00)" in report.notes[0]


def test_a_server_that_made_no_step_is_reported_and_not_met() -> None:
    nothing = Side([0.0], [0.0], [0.0], [0.0], [], failed=40)
    found = Disturbance(nothing, replace(nothing), [0.1], [1.0], 1)
    report = filled(ServingFound(SLO, 1, disturbance=found))
    (row,) = report.grids[0].rows
    assert "80 FAILED" in row[0]
    assert row[-1] == "missed"
    assert report.grids[1].rows[0][4:] == ("", "40")


def answers(count: int, *, failed: int = 0) -> list[Answer]:
    """Two tokens each, 0.1 s and 0.3 s after they were due; sent 20 ms late."""
    well = [Answer("a", i, i + 0.02, (i + 0.1, i + 0.3), i + 0.4) for i in range(count)]
    return well + [Answer("b", 0.0, 0.0, (), 0.1, "429 queue_full")] * failed


def run(rate: float, given: list[Answer]) -> RateRun:
    return RateRun(rate, summarize(given, SLO, 10.0), 0.25, given)


def test_rates_are_rows_and_lines() -> None:
    found = ServingFound(SLO, 1, rates=[run(1.0, answers(10)), run(2.0, answers(15, failed=5))])
    report = filled(found)
    (grid,) = report.grids
    assert "TTFT within 1 s and TPOT within 0.5 s" in grid.title
    assert grid.rows[0] == (
        "1.00", "10", "0", "100/100/100", "200/200/200", "400/400/400", "100.0%", "1.00",
        "a, 400", "0.25", "20",
    )  # fmt: skip
    assert grid.rows[1][1:3] == ("20", "5")
    assert grid.rows[1][6:8] == ("75.0%", "1.50")
    times, goodput = report.plots
    assert isinstance(times, LinePlot)
    assert isinstance(goodput, LinePlot)
    for points in times.lines.values():
        assert [x for x, _ in points] == [1.0, 2.0]
        assert [y for _, y in points] == pytest.approx([0.4, 0.4])
    assert goodput.lines == {"good": [(1.0, 1.0), (2.0, 1.5)], "offered": [(1.0, 1.0), (2.0, 2.0)]}
    assert report.data["rates"][0]["client_cpu"] == 0.25  # type: ignore[index]


def test_a_rate_at_which_all_failed_is_a_row_without_times_and_no_point() -> None:
    report = filled(
        ServingFound(SLO, 1, rates=[run(1.0, answers(3)), run(9.0, answers(0, failed=4))])
    )
    row = report.grids[0].rows[1]
    assert row[1:7] == ("4", "4", "", "", "", "0.0%")
    times, goodput = report.plots
    assert isinstance(times, LinePlot)
    assert isinstance(goodput, LinePlot)
    assert [[x for x, _ in points] for points in times.lines.values()] == [[1.0]] * 3
    assert goodput.lines["good"][1] == (9.0, 0.0)


def test_parts_that_were_not_run_leave_nothing() -> None:
    report = filled(ServingFound(SLO, 3))
    assert report.grids == []
    assert report.notes == []
    assert report.plots == []
    assert report.data == {"threads": 3, "slo": {"ttft": 1.0, "tpot": 0.5}}


def test_every_row_has_as_many_cells_as_its_table_has_columns() -> None:
    found = ServingFound(
        SLO, 1, saturation(), [LowLoad("whole", [0.1], [0.1], 0)], [run(1.0, answers(2))],
        disturbance(),
    )  # fmt: skip
    grids: list[Grid] = filled(found).grids
    assert len(grids) == 3
    for grid in grids:
        assert {len(row) for row in grid.rows} == {len(grid.columns)}, grid.title
