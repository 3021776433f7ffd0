"""The report of `jumplora bench engine`: seconds, ratios beside their bars, bytes, agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from jumplora_bench.bars import compare, verdict
from jumplora_bench.cases.case import Lap
from jumplora_bench.engine_bars import bars_of
from jumplora_bench.engine_grids import (
    families_grid,
    floors_grid,
    foldings_grid,
    throughput_grid,
    throughputs,
)
from jumplora_bench.fleet import Folding, InstalledFamily
from jumplora_bench.floors import Floor
from jumplora_bench.names import label_of
from jumplora_bench.plots import BarPlot
from jumplora_bench.report import Grid, Report
from jumplora_bench.roofs import Roofs
from jumplora_bench.rounds import Laps, spread
from jumplora_bench.shapes import ShapeName


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
    rows: int
    laps: Laps
    families: Sequence[InstalledFamily]
    backbone_bytes: Mapping[str, int]
    sanity: Sequence[Sanity]
    hub_versions: Mapping[str, str] | None
    new: int
    kernels: Mapping[str, str]  # what computed, by dtype
    foldings: Sequence[Folding] = ()
    floors: Mapping[str, Floor] = field(default_factory=dict)  # of cases of ours
    roofs: Mapping[str, Roofs] = field(default_factory=dict)  # by dtype, where floors are


def report_of(report: Report, found: Measured) -> None:
    """Fill the report in."""
    seconds = {name: [lap.seconds for lap in laps] for name, laps in found.laps.items()}
    rows, new = found.rows, found.new
    compared = compare(bars_of(found.shape, found.device, rows, found.kernels), seconds)
    report.about["kernels"] = ", ".join(
        f"{label_of(dtype)} {name}" for dtype, name in found.kernels.items()
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
        families_grid(found.families),
        Grid(
            "Same weights, same prompts: tokens that agree",
            ("ours", "theirs", "tokens", "whole rows"),
            [(s.ours, s.theirs, f"{s.tokens:.1%}", f"{s.rows:.1%}") for s in found.sanity],
        ),
        *(grid for grid in (
            foldings_grid(found.foldings, found.backbone_bytes),
            floors_grid(found.floors, seconds, rows, new),
            throughput_grid(seconds, rows, new, "int8"),
        ) if grid.rows),
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
        "foldings": [asdict(f) | {"chain_bytes": f.chain_bytes} for f in found.foldings],
        "roofs": {dtype: asdict(roofs) for dtype, roofs in found.roofs.items()},
        "floors": {n: asdict(f) | {"lap": f.lap(new)} for n, f in found.floors.items()},
        "rows_at_once": {n: asdict(s) for n, s in throughputs(seconds, rows, "int8").items()},
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
    if found.foldings:
        notes.append(
            "A lineage's first versions are folded into a trunk, the form that a server gives it "
            "by default; unfolded: a slot for every version. Different depths: one row at each of "
            "the deepest depths of one chain. Different chains: the first, and the same with the "
            "rows of its matrices moved."
        )
    if found.roofs:
        told = "; ".join(
            f"{label_of(dtype)} {each.operations_per_second / 1e9:.0f} G operations/s"
            for dtype, each in found.roofs.items()
        )
        reads = max(each.bytes_per_second for each in found.roofs.values()) / 1e9
        notes.append(
            f"Roofs, measured before: {reads:.1f} GB/s read; torch's own products {told}. A floor "
            "is what a lap takes at least at these roofs: weights, trunks, deltas, keys and values "
            "once a step, or products and non-zeros. Bar: at most halfway between the floor and "
            "the unfolded form."
        )
    return notes
