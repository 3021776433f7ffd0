"""The tables and bars of the adapters benchmark, from made-up measurements with known answers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from jumplora_bench.adapters_report import AdaptersFound, Bytes, fill
from jumplora_bench.loading import PARTS, STAGES, Interference, Loading
from jumplora_bench.plots import LinePlot
from jumplora_bench.registered import RegisteredRun
from jumplora_bench.report import Report
from jumplora_bench.shapes import ShapeName


def found(shape: ShapeName = "large") -> AdaptersFound:
    return AdaptersFound(shape, 0.051, "base", asked=5, filler_targets=2, threads=2)


def filled(given: AdaptersFound) -> Report:
    report = Report("adapters", "Adapters", "jumplora bench adapters")
    fill(report, given)
    json.dumps(report.data, allow_nan=False)
    for grid in report.grids:
        assert {len(row) for row in grid.rows} == {len(grid.columns)}, grid.title
    return report


@pytest.mark.parametrize(
    ("shape", "density", "packed", "verdict"),
    [
        pytest.param("large", 0.051, 34_500_000, "met", id="at the bar"),
        pytest.param("large", 0.051, 34_500_001, "missed", id="one byte over"),
        pytest.param("base", 0.051, 34_500_001, "", id="another shape has no bar"),
        pytest.param("large", 0.124, 34_500_001, "", id="another density has no bar"),
    ],
)
def test_bytes(shape: ShapeName, density: float, packed: int, verdict: str) -> None:
    given = found(shape)
    given.bytes = [Bytes(density, packed, 9_000_000, 100_000_000, 4_700_000)]
    (row,) = filled(given).grids[0].rows
    assert row[0] == f"{density:.1%}"
    assert row[2:5] == ("9.0", "100.0", "4.7")
    assert row[-1] == verdict
    assert bool(row[-2]) == bool(verdict)


def loading(ready: float) -> Loading:
    """Two loads; `ready` is the median of both."""
    return Loading(
        file_bytes=12_300_000,
        parts={name: [0.1, 0.3] for name in PARTS},
        stages={name: [0.01, 0.02] for name in STAGES},
        ready=[ready - 0.1, ready + 0.1],
        put=[1.0, 2.0],
    )


@pytest.mark.parametrize(
    ("shape", "ready", "bar", "verdict"),
    [
        pytest.param("large", 0.5, "<= 0.5 s", "met", id="at the bar"),
        pytest.param("large", 0.51, "<= 0.5 s", "missed", id="over"),
        pytest.param("base", 9.0, "", "", id="another shape has no bar"),
    ],
)
def test_load_to_ready(shape: ShapeName, ready: float, bar: str, verdict: str) -> None:
    given = found(shape)
    given.loading, given.busy_loading = loading(ready), loading(8.0)
    grid = filled(given).grids[0]
    assert "a file of 12.3 MB" in grid.title
    rows = {tuple(row[:2]): tuple(row[2:]) for row in grid.rows}
    assert rows["server, idle", "disk to ready"][-2:] == (bar, verdict)
    assert rows["server, with requests", "disk to ready"][-2:] == ("", ""), "held when idle alone"
    assert rows["in parts, this process", "pack"][:3] == ("0.200", "0.100", "0.300")
    assert [row[1] for row in grid.rows[: len(PARTS) + len(STAGES)]] == [*PARTS, *STAGES]


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        pytest.param(Interference([0.2, 0.3], [0.5], [0.25]), "met", id="0.2 s within 0.25"),
        pytest.param(Interference([0.2, 0.3], [0.6], [0.25]), "missed", id="0.3 s over 0.25"),
        pytest.param(Interference([0.3], [0.3], [0.25], failed=1), "missed", id="one failed"),
        pytest.param(Interference([0.3], [], [0.25]), "missed", id="nothing answered beside it"),
        pytest.param(Interference([], [0.1], [0.25]), "missed", id="nothing answered in quiet"),
    ],
)
def test_interference(given: Interference, verdict: str) -> None:
    all_found = replace(found(), interference=given)
    report = filled(all_found)
    assert f"none failed: {verdict})" in report.notes[0]
    assert f"{given.failed} requests failed" in report.notes[0]


def run(tasks: int, speed: float, failed: int = 0) -> RegisteredRun:
    return RegisteredRun(tasks, [speed, speed - 5, speed + 5], 10**9, 20_000, [0.05], 3.0, failed)


@pytest.mark.parametrize(
    ("runs", "ratio", "verdict"),
    [
        pytest.param([run(5, 100.0), run(1000, 97.0)], "0.970", "met", id="3 % are lost"),
        pytest.param([run(5, 100.0), run(1000, 96.0)], "0.960", "missed", id="4 % are lost"),
        pytest.param([run(5, 100.0), run(999, 50.0)], "0.500", "", id="another number, no bar"),
        pytest.param([run(6, 100.0), run(1000, 50.0)], "0.500", "", id="beside another, no bar"),
        pytest.param([run(5, 100.0), run(1000, 99.0, 1)], "0.990", "missed", id="some failed"),
        pytest.param([run(5, 90.0, 9), run(1000, 90.0)], "1.000", "missed", id="the few failed"),
    ],
)
def test_registered(runs: list[RegisteredRun], ratio: str, verdict: str) -> None:
    report = filled(replace(found(), registered=runs))
    first, last = report.grids[0].rows
    assert first[4] == "1.000"
    assert first[6] == ""
    assert (last[4], last[6]) == (ratio, verdict)
    assert last[7:11] == ("1000", "20", "50.0", "3.0")
    (plot,) = report.plots
    assert isinstance(plot, LinePlot)
    assert [x for x, _ in plot.lines["median"]] == [each.tasks for each in runs]


def test_servers_that_answered_nothing_are_reported() -> None:
    silent = [RegisteredRun(n, [0.0, 0.0], 1, 1, [0.1], 1.0, failed=7) for n in (5, 1000)]
    _, last = filled(replace(found(), registered=silent)).grids[0].rows
    assert last[6] == "missed"


def test_the_note_names_what_the_fillers_target() -> None:
    few = filled(replace(found(), registered=[run(5, 1.0)])).notes[0]
    all_of_them = filled(replace(found(), registered=[run(5, 1.0)], filler_targets=0)).notes[0]
    assert "the others 2 modules" in few
    assert "the others all modules" in all_of_them


def test_parts_that_were_not_run_leave_nothing() -> None:
    report = filled(found())
    assert (report.grids, report.notes, report.plots) == ([], [], [])
