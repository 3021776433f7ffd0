"""The ratios of `jumplora bench engine`, and what the project wants of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jumplora_bench.bars import Bar
from jumplora_bench.cases.torch_peers import ALL_LINEAR, BARE, BEAMS, BEAMS_CASE
from jumplora_bench.masked import TURNS
from jumplora_bench.names import (
    DENSITIES,
    LINEAGES,
    all_linear_name,
    bare_name,
    beams_name,
    chains_measure,
    chains_name,
    ct2_avx2_name,
    ct2_name,
    depths_measure,
    depths_name,
    label_of,
    lineage_measure,
    lineage_name,
    mixed_name,
    unfolded,
)
from jumplora_bench.shapes import ShapeName

_PEFT, _HUB = "PEFT mixed", "AdapterHub BatchSplit"


@dataclass(frozen=True, slots=True)
class Goals:
    """What the project wants of one dtype's ratios; None: nothing, it is only printed."""

    over_peft: float | None = None
    over_ct2: float | None = None
    over_ct2_avx2: float | None = None
    over_transformers: float | None = None
    beams_over_transformers: float | None = None
    tax: Mapping[float, float] = field(default_factory=dict)  # by density
    lineage_tax: Mapping[int, float] = field(default_factory=dict)  # by slots
    all_linear_over_peft: float | None = None


# They were set for the CPU with T5-base and 8 rows, and for a GPU with T5-large and 64 rows.
_GOALS: Mapping[tuple[ShapeName, str, str], Goals] = {
    ("base", "cpu", "float32"): Goals(
        over_peft=2.2,
        over_transformers=1.4,
        beams_over_transformers=1.8,
        tax={0.051: 1.06, 0.124: 1.12},
        lineage_tax={4: 1.25, 15: 1.30},
        all_linear_over_peft=1.5,
    ),
    ("base", "cpu", "int8"): Goals(
        over_peft=6.0,
        over_ct2=2.0,
        over_transformers=2.5,
        tax={0.051: 1.12, 0.124: 1.25},
        lineage_tax={4: 1.40, 15: 1.50},
        all_linear_over_peft=3.0,
    ),
    ("large", "cuda", "bfloat16"): Goals(over_peft=30.0, tax={0.051: 1.25}),
}


def goals_of(shape: ShapeName, device: str, dtype: str, kernels: str) -> Goals:
    """Kernels for AVX2 stand beside a torch that uses AVX-512 where the processor has it."""
    goals = _GOALS.get((shape, device, dtype), Goals())
    if not kernels.startswith("avx2") or goals == Goals():
        return goals
    if dtype == "int8":
        return replace(goals, over_peft=3.5, over_ct2=None, over_ct2_avx2=1.3)
    return replace(goals, over_peft=1.6)


def bars_of(shape: ShapeName, device: str, rows: int, kernels: Mapping[str, str]) -> list[Bar]:
    """Every ratio that is printed, in its order. `kernels` are what computed, by dtype."""
    bars: list[Bar] = []
    for dtype, computed in kernels.items():
        label, goals = label_of(dtype), goals_of(shape, device, dtype, computed)
        bare, tasks = bare_name(dtype), mixed_name(rows, DENSITIES[0], dtype)
        loras = all_linear_name(rows, dtype)
        bars += [
            Bar(f"{label}: {rows} tasks over PEFT mixed", _PEFT, tasks, "at least",
                goals.over_peft),
            Bar(f"{label}: {rows} tasks over AdapterHub BatchSplit", _HUB, tasks),
            Bar(f"{label}: {rows} tasks over CTranslate2 {label}, one merged task",
                ct2_name(dtype), tasks, "at least", goals.over_ct2),
            Bar(f"{label}: {rows} tasks over CTranslate2 {label} AVX2, one merged task",
                ct2_avx2_name(dtype), tasks, "at least", goals.over_ct2_avx2),
            Bar(f"{label}: {rows} tasks over CTranslate2 {label} AVX2, MKL too, one merged task",
                ct2_avx2_name(dtype, products=True), tasks),
            Bar(f"{label}: bare over transformers", BARE, bare, "at least",
                goals.over_transformers),
            Bar(f"{label}: {BEAMS} beams over transformers", BEAMS_CASE, beams_name(dtype),
                "at least", goals.beams_over_transformers),
            Bar(f"{label}: bare over CTranslate2 {label}", ct2_name(dtype), bare),
            *(Bar(f"{label}: tax of {rows} tasks, density {density:.1%}",
                  mixed_name(rows, density, dtype), bare, "at most", goals.tax.get(density))
              for density in DENSITIES),
            *_lineages(rows, dtype, goals.lineage_tax),
            Bar(f"{label}: {rows} all-linear LoRAs over PEFT mixed", ALL_LINEAR, loras, "at least",
                goals.all_linear_over_peft),
            Bar(f"{label}: tax of {rows} all-linear LoRAs", loras, bare),
        ]  # fmt: skip
    return bars


def _lineages(rows: int, dtype: str, most: Mapping[int, float]) -> list[Bar]:
    """The taxes of lineages, each in the form that a server gives it, and unfolded."""
    several = min(rows, TURNS)
    named = [
        *((lineage_measure(n), lineage_name(n, dtype), most.get(n)) for n, _, _ in LINEAGES),
        (depths_measure(several), depths_name(several, dtype), None),
        (chains_measure(several), chains_name(several, dtype), None),
    ]
    bars = []
    for measure, name, limit in named:
        a = "a " if measure.startswith("lineage") else ""
        told = f"{label_of(dtype)}: tax of {a}{measure}"
        bars += [
            Bar(told, name, bare_name(dtype), "at most", limit),
            Bar(unfolded(told), unfolded(name), bare_name(dtype), "at most"),
        ]
    return bars
