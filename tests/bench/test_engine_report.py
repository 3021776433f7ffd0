"""The engine benchmark's ratios and bars, from laps whose seconds are known."""

from __future__ import annotations

import json

import pytest

from jumplora_bench.cases.case import Lap
from jumplora_bench.engine_bars import bars_of
from jumplora_bench.engine_report import Measured, Sanity, report_of
from jumplora_bench.fleet import Folding, InstalledFamily
from jumplora_bench.floors import Floor
from jumplora_bench.names import (
    DENSITIES,
    chains_name,
    lineage_name,
    mixed_name,
    rows_name,
    unfolded,
)
from jumplora_bench.plots import BarPlot
from jumplora_bench.report import Report
from jumplora_bench.roofs import Roofs
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
        "rows": ROWS,
        "kernels": {"float32": "native"},
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
        pytest.param("8 tasks over PEFT mixed", "1.90", ">= 2.20", "missed", id="4 / 2.1"),
        pytest.param("bare over transformers", "1.50", ">= 1.40", "met", id="3 / 2"),
        pytest.param("tax of 8 tasks, density 5.1%", "1.05", "<= 1.06", "met", id="2.1 / 2"),
        pytest.param("tax of 8 tasks, density 12.4%", "1.20", "<= 1.12", "missed", id="2.4 / 2"),
        pytest.param("tax of a lineage of 4", "1.25", "<= 1.25", "met", id="2.5 / 2"),
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
            "base", "cpu", "float32", 8, id="base, float32: PEFT twice, bare, beams, taxes"
        ),
        pytest.param("base", "cpu", "int8", 8, id="base, int8: CTranslate2 too"),
        pytest.param("large", "cuda", "bfloat16", 2, id="large on a GPU: PEFT, one tax"),
        pytest.param("large", "cpu", "int8", 0, id="no goals for this shape"),
        pytest.param("base", "cuda", "int8", 0, id="no goals for this device"),
        pytest.param("tiny", "cpu", "float32", 0, id="tiny is no measurement"),
    ],
)
def test_bars_stand_where_a_goal_was_set(
    shape: ShapeName, device: str, dtype: str, held: int
) -> None:
    bars = bars_of(shape, device, ROWS, {dtype: "native"})
    assert sum(bar.limit is not None for bar in bars) == held
    assert len({bar.measure for bar in bars}) == len(bars)


def test_a_dtype_has_its_own_ratios() -> None:
    both = bars_of("base", "cpu", ROWS, {"float32": "avx512", "int8": "avx512"})
    assert [bar.measure.partition(":")[0] for bar in both] == ["fp32"] * 20 + ["int8"] * 20


def limits(dtype: str, kernels: str) -> dict[str, float | None]:
    bars = bars_of("base", "cpu", ROWS, {dtype: kernels})
    return {bar.measure.partition(": ")[2]: bar.limit for bar in bars}


@pytest.mark.parametrize("kernels", ["avx2", "avx2_vnni"])
@pytest.mark.parametrize(
    ("dtype", "changed"),
    [
        pytest.param("float32", {"8 tasks over PEFT mixed": 1.6}, id="float32"),
        pytest.param(
            "int8",
            {
                "8 tasks over PEFT mixed": 3.5,
                "8 tasks over CTranslate2 int8, one merged task": None,
                "8 tasks over CTranslate2 int8 AVX2, one merged task": 1.3,
            },
            id="int8: over CTranslate2 that is restricted alike",
        ),
    ],
)
def test_kernels_for_avx2_have_their_own_bars(
    kernels: str, dtype: str, changed: dict[str, float | None]
) -> None:
    usual, avx2 = limits(dtype, "avx512"), limits(dtype, kernels)
    assert {name: avx2[name] for name in avx2 if avx2[name] != usual[name]} == changed
    assert avx2.keys() == usual.keys()


CHAINS = chains_name(8, "float32")


def with_floors(folded: float) -> Report:
    """Chains whose floor is 1 s and that take 3 s unfolded; the bare floor is 0.8 s."""
    seconds = {"ours bare fp32": 2.0, CHAINS: folded, unfolded(CHAINS): 3.0}
    return made(
        measured(
            laps={name: laps(each, 0.4) for name, each in seconds.items()},
            floors={
                "ours bare fp32": Floor("float32", 0.16, 0.04),
                CHAINS: Floor("float32", 0.2, 0.05),
            },
            roofs={"float32": Roofs(30e9, 100e9)},
        )
    )


@pytest.mark.parametrize(
    ("folded", "verdict"), [pytest.param(1.9, "met"), pytest.param(2.1, "missed")]
)
def test_chains_are_held_halfway_between_their_floor_and_their_unfolded_form(
    folded: float, verdict: str
) -> None:
    report = with_floors(folded)
    (grid,) = [each for each in report.grids if each.title.startswith("Floors")]
    bare, chains = grid.rows
    assert bare[1:] == ("160", "40.00", "0.800", "2.000", "2.50", "1.00", "1.00", "", "")
    assert chains[3:] == (
        "1.000",
        f"{folded:.3f}",
        f"{folded:.2f}",
        "1.25",
        f"{folded / 2:.2f}",
        "<= 2.000 s",
        verdict,
    )
    assert "fp32 100 G operations/s" in report.notes[-1]


def test_the_trunks_of_a_chain_are_held_against_the_backbone() -> None:
    foldings = [
        Folding("few", "float32", [0.5, 1.5, 0.7], 170_000_000, 15, 4),
        Folding("many", "float32", [0.5], 170_000_000, 15, 6),
    ]
    report = made(measured(foldings=foldings))
    (grid,) = [each for each in report.grids if each.title.startswith("Trunks")]
    few, many = grid.rows
    assert few[1:] == ("3", "0.70", "1.50", "170.0", "4", "680.0", "<= 892.0", "met")
    assert many[5:] == ("6", "1020.0", "<= 892.0", "missed")


def test_more_rows_should_give_more_tokens_a_second() -> None:
    seconds = {8: 1.0, 16: 1.6, 64: 6.5}
    names = {8: mixed_name(8, DENSITIES[0], "int8")} | {n: rows_name(n, "int8") for n in (16, 64)}
    report = made(measured(laps={names[n]: laps(each) for n, each in seconds.items()}))
    (grid,) = [each for each in report.grids if each.title.startswith("Rows at once")]
    eight, sixteen, many = grid.rows
    assert (eight[1], eight[2], eight[5:]) == ("128.0", "1.00", ("", ""))
    assert (sixteen[1], sixteen[2], sixteen[5:]) == ("160.0", "1.25", ("rising", "met"))
    assert (many[1], many[2], many[5:]) == ("157.5", "1.23", ("rising", "missed"))
    without = made(measured(laps={names[8]: laps(1.0)}))
    assert not any(each.title.startswith("Rows at once") for each in without.grids)


def test_the_header_names_the_kernels_that_computed() -> None:
    assert made(measured()).facts()["kernels"] == "fp32 native"


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
    assert report.grids[2].rows == [(MIXED, "8", "1", "5.1%", "5.1%", "16.0", "9.0", "")]
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
