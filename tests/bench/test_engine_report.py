"""The engine benchmark's ratios and bars, from laps whose seconds are known."""

from __future__ import annotations

import json

import pytest

from jumplora_bench.cases.case import Lap
from jumplora_bench.engine_report import Measured, Sanity, bars_of, report_of
from jumplora_bench.fleet import DENSITIES, InstalledFamily, lineage_name, mixed_name
from jumplora_bench.plots import BarPlot
from jumplora_bench.report import Report
from jumplora_bench.shapes import ShapeName

ROWS = 8
MIXED = mixed_name(ROWS, DENSITIES[0], "float32")
SECONDS = {
    "transformers bare": 3.0,
    "PEFT mixed": 4.0,
    "ours bare fp32": 2.0,
    MIXED: 2.1,
    mixed_name(ROWS, DENSITIES[1], "float32"): 2.4,
    lineage_name(4, "float32"): 2.5,
}


def laps(seconds: float, encode: float | None = None) -> list[Lap]:
    """Three rounds around a median."""
    tokens = ((1, 2),) * ROWS
    return [Lap(each, tokens, encode) for each in (seconds + 0.1, seconds, seconds - 0.1)]


def measured(shape: ShapeName = "base", **more: object) -> Measured:
    chosen = {
        "title": "Engine",
        "shape": shape,
        "device": "cpu",
        "threads": 2,
        "laps": {
            name: laps(seconds, 0.4 if name.startswith("ours") else None)
            for name, seconds in SECONDS.items()
        },
        "families": [InstalledFamily(MIXED, 8, 1, 0.051, 0.0512, 16_000_000, 9_000_000)],
        "backbone_bytes": {"float32": 892_000_000},
        "sanity": [Sanity("ours bare fp32", "transformers bare", 1.0, 0.875)],
        "hub_versions": None,
        "new": 16,
    }
    return Measured(**(chosen | more))  # type: ignore[arg-type]


def made(found: Measured) -> Report:
    report = Report("engine", "Engine", "jumplora bench engine")
    report_of(report, found)
    json.dumps(report.data, allow_nan=False)
    for grid in report.grids:
        assert {len(row) for row in grid.rows} <= {len(grid.columns)}, grid.title
    return report


@pytest.mark.parametrize(
    ("measure", "ratio", "bar", "verdict"),
    [
        pytest.param("8 tasks over PEFT mixed", "1.90", ">= 1.60", "met", id="4 / 2.1"),
        pytest.param("bare over transformers", "1.50", ">= 1.40", "met", id="3 / 2"),
        pytest.param("tax of 8 tasks, density 5.1%", "1.05", "<= 1.10", "met", id="2.1 / 2"),
        pytest.param("tax of 8 tasks, density 12.4%", "1.20", "<= 1.15", "missed", id="2.4 / 2"),
        pytest.param("tax of a lineage of 4", "1.25", "", "", id="no bar"),
    ],
)
def test_ratios(measure: str, ratio: str, bar: str, verdict: str) -> None:
    rows = {row[0]: row[1:] for row in made(measured()).grids[1].rows}
    found = rows[f"fp32: {measure}"]
    assert (found[0], found[3], found[4]) == (ratio, bar, verdict)


def test_a_ratio_needs_both_of_its_cases() -> None:
    names = [row[0] for row in made(measured()).grids[1].rows]
    assert not any("CTranslate2" in name or "AdapterHub" in name for name in names)
    assert "fp32: tax of a lineage of 15" not in names


@pytest.mark.parametrize(
    ("shape", "device", "dtype", "held"),
    [
        pytest.param(
            "base", "cpu", "float32", 6, id="base, float32: PEFT twice, bare, beams, taxes"
        ),
        pytest.param("base", "cpu", "int8", 6, id="base, int8: CTranslate2 too"),
        pytest.param("large", "cuda", "bfloat16", 2, id="large on a GPU: PEFT, one tax"),
        pytest.param("large", "cpu", "int8", 0, id="no goals for this shape"),
        pytest.param("base", "cuda", "int8", 0, id="no goals for this device"),
        pytest.param("tiny", "cpu", "float32", 0, id="tiny is no measurement"),
    ],
)
def test_bars_stand_where_a_goal_was_set(
    shape: ShapeName, device: str, dtype: str, held: int
) -> None:
    bars = bars_of(shape, device, ROWS, [dtype])
    assert sum(bar.limit is not None for bar in bars) == held
    assert len({bar.measure for bar in bars}) == len(bars)


def test_a_dtype_has_its_own_ratios() -> None:
    both = bars_of("base", "cpu", ROWS, ["float32", "int8"])
    assert [bar.measure.partition(":")[0] for bar in both] == ["fp32"] * 12 + ["int8"] * 12


def test_a_decode_step_is_what_is_left_of_the_encode() -> None:
    rows = {row[0]: row[1:] for row in made(measured()).grids[0].rows}
    assert rows["ours bare fp32"] == ("2.000", "1.900", "2.100", "0.400", "100.0")  # 1.6 s / 16
    assert rows["PEFT mixed"] == ("4.000", "3.900", "4.100", "", ""), "it does not tell"


def test_the_record_has_every_round() -> None:
    data = made(measured()).data
    assert data["seconds"]["PEFT mixed"] == [4.1, 4.0, 3.9]  # type: ignore[index]
    assert data["encode_seconds"].keys() == {n for n in SECONDS if n.startswith("ours")}  # type: ignore[attr-defined]
    ratio = data["ratios"]["fp32: bare over transformers"]  # type: ignore[index]
    assert ratio["bar"] == 1.4
    assert ratio["least"] == pytest.approx(3.1 / 2.1)
    assert ratio["most"] == pytest.approx(2.9 / 1.9)


def test_adapters_and_agreement_are_tables() -> None:
    report = made(measured())
    assert report.grids[2].rows == [(MIXED, "8", "1", "5.1%", "5.1%", "16.0", "9.0")]
    assert report.grids[3].rows == [("ours bare fp32", "transformers bare", "100.0%", "87.5%")]
    (plot,) = report.plots
    assert isinstance(plot, BarPlot)
    assert plot.bars["PEFT mixed"] == (4.0, 3.9, 4.1)


def test_notes_say_only_what_was_there() -> None:
    full = made(measured(hub_versions={"adapters": "1.2", "torch": "2.3"})).notes
    assert full[0] == "Our backbone: fp32 892 MB."
    assert full[1].endswith("adapters 1.2, torch 2.3.")
    assert len(full) == 3
    assert made(measured(families=(), backbone_bytes={})).notes == []
