"""The report of `jumplora bench engine`: seconds, ratios beside their bars, bytes, agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from jumplora_bench.bars import Bar, compare, verdict
from jumplora_bench.cases.case import Lap
from jumplora_bench.cases.torch_peers import ALL_LINEAR, BEAMS, BEAMS_CASE
from jumplora_bench.fleet import (
    DENSITIES,
    LINEAGES,
    InstalledFamily,
    all_linear_name,
    beams_name,
    label_of,
)
from jumplora_bench.fleet import lineage_name as lineage
from jumplora_bench.fleet import mixed_name as mixed
from jumplora_bench.plots import BarPlot
from jumplora_bench.report import Grid, Report
from jumplora_bench.rounds import Laps, spread
from jumplora_bench.shapes import ShapeName

_PEERS = ("transformers bare", "PEFT mixed", "AdapterHub BatchSplit")


@dataclass(frozen=True, slots=True)
class Goals:
    """What the project wants of one dtype's ratios; None: nothing, it is only printed."""

    over_peft: float | None = None
    over_ct2: float | None = None
    over_transformers: float | None = None
    beams_over_transformers: float | None = None
    tax: Mapping[float, float] = field(default_factory=dict)  # by density
    all_linear_over_peft: float | None = None


# They were set for the CPU with T5-base and 8 rows, and for a GPU with T5-large and 64 rows.
_GOALS: Mapping[tuple[ShapeName, str, str], Goals] = {
    ("base", "cpu", "float32"): Goals(
        over_peft=1.6,
        over_transformers=1.4,
        beams_over_transformers=1.8,
        tax={0.051: 1.10, 0.124: 1.15},
        all_linear_over_peft=1.5,
    ),
    ("base", "cpu", "int8"): Goals(
        over_peft=4.0,
        over_ct2=1.5,
        over_transformers=2.5,
        tax={0.051: 1.25, 0.124: 1.50},
        all_linear_over_peft=3.0,
    ),
    ("large", "cuda", "bfloat16"): Goals(over_peft=30.0, tax={0.051: 1.25}),
}


@dataclass(frozen=True, slots=True)
class Sanity:
    """How far two programs with the same weights agree, as shares 0 to 1."""

    ours: str
    theirs: str
    tokens: float
    rows: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that was found."""

    title: str
    shape: ShapeName
    device: str
    threads: int
    laps: Laps
    families: Sequence[InstalledFamily]
    backbone_bytes: Mapping[str, int]
    sanity: Sequence[Sanity]
    hub_versions: Mapping[str, str] | None
    new: int


def bars_of(shape: ShapeName, device: str, rows: int, dtypes: Sequence[str]) -> list[Bar]:
    """Every ratio that is printed, in its order."""
    bars: list[Bar] = []
    for dtype in dtypes:
        label, goals = label_of(dtype), _GOALS.get((shape, device, dtype), Goals())
        bare, tasks = f"ours bare {label}", mixed(rows, DENSITIES[0], dtype)
        loras = all_linear_name(rows, dtype)
        bars += [
            Bar(f"{label}: {rows} tasks over PEFT mixed", "PEFT mixed", tasks, "at least",
                goals.over_peft),
            Bar(f"{label}: {rows} tasks over AdapterHub BatchSplit", _PEERS[2], tasks),
            Bar(f"{label}: {rows} tasks over CTranslate2 {label}, one merged task",
                f"CTranslate2 merged {label}", tasks, "at least", goals.over_ct2),
            Bar(f"{label}: bare over transformers", _PEERS[0], bare, "at least",
                goals.over_transformers),
            Bar(f"{label}: {BEAMS} beams over transformers", BEAMS_CASE, beams_name(dtype),
                "at least", goals.beams_over_transformers),
            Bar(f"{label}: bare over CTranslate2 {label}", f"CTranslate2 merged {label}", bare),
            *(Bar(f"{label}: tax of {rows} tasks, density {density:.1%}",
                  mixed(rows, density, dtype), bare, "at most", goals.tax.get(density))
              for density in DENSITIES),
            *(Bar(f"{label}: tax of a lineage of {slots}", lineage(slots, dtype), bare)
              for slots, _, _ in LINEAGES),
            Bar(f"{label}: {rows} all-linear LoRAs over PEFT mixed", ALL_LINEAR, loras, "at least",
                goals.all_linear_over_peft),
            Bar(f"{label}: tax of {rows} all-linear LoRAs", loras, bare),
        ]  # fmt: skip
    return bars


def report_of(report: Report, found: Measured) -> None:
    """Fill the report in."""
    seconds = {name: [lap.seconds for lap in laps] for name, laps in found.laps.items()}
    rows = len(next(iter(found.laps.values()))[0].tokens)
    compared = compare(
        bars_of(found.shape, found.device, rows, tuple(found.backbone_bytes)), seconds
    )
    report.grids = [
        Grid(
            f"{found.title}, {found.threads} threads each",
            ("case", "median s", "min", "max", "encode s", "decode ms/step"),
            [_case_row(name, laps, found.new) for name, laps in found.laps.items()],
        ),
        Grid(
            "Ratios of medians, with the range of the rounds",
            ("ratio", "median", "min", "max", "bar", ""),
            [
                (bar.measure, *(f"{v:.2f}" for v in (s.median, s.least, s.most)), bar.told,
                 verdict(bar.is_met(s.median)))
                for bar, s in compared
            ],
        ),
        Grid(
            "Adapters in the engine",
            ("case", "adapters", "slots a row", "density", "union", "packed MB", "as files MB"),
            [_family_row(family) for family in found.families],
        ),
        Grid(
            "Same weights, same prompts: tokens that agree",
            ("ours", "theirs", "tokens", "whole rows"),
            [(s.ours, s.theirs, f"{s.tokens:.1%}", f"{s.rows:.1%}") for s in found.sanity],
        ),
    ]  # fmt: skip
    report.notes = _notes(found)
    report.data = {
        "threads": found.threads,
        "seconds": seconds,
        "encode_seconds": {
            name: [lap.encode_seconds for lap in laps]
            for name, laps in found.laps.items()
            if laps[0].encode_seconds is not None
        },
        "ratios": {bar.measure: {**asdict(s), "bar": bar.limit} for bar, s in compared},
        "adapters": [asdict(family) for family in found.families],
        "backbone_bytes": dict(found.backbone_bytes),
        "agreement": [asdict(s) for s in found.sanity],
        "adapterhub_versions": found.hub_versions,
    }
    spreads = {name: spread(values) for name, values in seconds.items()}
    report.plots = [
        BarPlot(
            "Seconds by case",
            "seconds, median and range",
            {name: (s.median, s.least, s.most) for name, s in spreads.items()},
        )
    ]


def _case_row(name: str, laps: Sequence[Lap], new: int) -> tuple[str, ...]:
    total = spread([lap.seconds for lap in laps])
    encodes = [lap.encode_seconds for lap in laps if lap.encode_seconds is not None]
    if not encodes:
        return (name, *_three(total.median, total.least, total.most), "", "")
    steps = spread([(lap.seconds - (lap.encode_seconds or 0)) / new for lap in laps])
    return (
        name,
        *_three(total.median, total.least, total.most),
        f"{spread(encodes).median:.3f}",
        f"{1000 * steps.median:.1f}",
    )


def _three(*values: float) -> tuple[str, ...]:
    return tuple(f"{value:.3f}" for value in values)


def _family_row(family: InstalledFamily) -> tuple[str, ...]:
    return (
        family.name,
        str(family.adapters),
        str(family.slots),
        f"{family.density:.1%}",
        f"{family.union:.1%}",
        f"{family.packed_bytes / 1e6:.1f}",
        f"{family.own_bytes / 1e6:.1f}",
    )


def _notes(found: Measured) -> list[str]:
    sizes = ", ".join(
        f"{label_of(dtype)} {nbytes / 1e6:.0f} MB" for dtype, nbytes in found.backbone_bytes.items()
    )
    notes = [f"Our backbone: {sizes}."] if sizes else []
    if found.hub_versions is not None:
        told = ", ".join(f"{name} {version}" for name, version in found.hub_versions.items())
        notes.append(f"AdapterHub ran out of process, in its turn of the same rounds: {told}.")
    if found.families:
        notes.append(
            "A lineage's rows share all slots but the last. Packed: what the engine holds; as "
            "files: bit masks and bfloat16 values."
        )
    return notes
