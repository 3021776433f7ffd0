"""The tables of `jumplora bench engine` beside seconds and ratios: adapters, trunks, floors, rows.

Each is of the cases that ran.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from jumplora_bench.bars import verdict
from jumplora_bench.fleet import Folding, InstalledFamily
from jumplora_bench.floors import Floor
from jumplora_bench.masked import TURNS
from jumplora_bench.names import (
    DENSITIES,
    MANY_ROWS,
    bare_name,
    chains_name,
    depths_name,
    mixed_name,
    rows_name,
    unfolded,
)
from jumplora_bench.report import Grid
from jumplora_bench.rounds import Spread, ratios

Seconds = Mapping[str, Sequence[float]]


def families_grid(families: Sequence[InstalledFamily]) -> Grid:
    """What the rows of each case have in the engine."""
    return Grid(
        "Adapters in the engine",
        ("case", "adapters", "slots a row", "density", "union", "packed MB", "as files MB",
         "trunks MB"),
        [
            (
                family.name,
                str(family.adapters),
                str(family.slots),
                f"{family.density:.1%}",
                f"{family.union:.1%}",
                _megabytes(family.packed_bytes),
                _megabytes(family.own_bytes),
                _megabytes(family.trunk_bytes) if family.trunk_bytes else "",
            )
            for family in families
        ],
    )  # fmt: skip


def foldings_grid(foldings: Sequence[Folding], backbone_bytes: Mapping[str, int]) -> Grid:
    """Seconds and bytes of trunks, and those of a chain held against one more backbone."""
    rows = []
    for folding in foldings:
        most = backbone_bytes[folding.dtype]
        rows.append(
            (
                folding.name,
                str(len(folding.seconds)),
                f"{statistics.median(folding.seconds):.2f}",
                f"{max(folding.seconds):.2f}",
                _megabytes(folding.trunk_bytes),
                str(folding.chain),
                _megabytes(folding.chain_bytes),
                f"<= {_megabytes(most)}",
                verdict(folding.chain_bytes <= most),
            )
        )
    return Grid(
        "Trunks: seconds to fold one, and what all versions of a chain take above their deltas",
        ("case", "folded", "median s", "most s", "MB each", "trunks of a chain", "MB", "bar", ""),
        rows,
    )


def floors_grid(floors: Mapping[str, Floor], seconds: Seconds, rows: int, new: int) -> Grid:
    """Each case beside its floor, and as a tax on the bare backbone: measured, and the floor's."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    told = []
    for name, floor in floors.items():
        bare = bare_name(floor.dtype)
        least, limit = floor.lap(new), _limit(name, floor, medians, rows, new)
        told.append(
            (
                name,
                f"{1000 * floor.encode:.0f}",
                f"{1000 * floor.step:.2f}",
                f"{least:.3f}",
                f"{medians[name]:.3f}",
                f"{medians[name] / least:.2f}",
                f"{least / floors[bare].lap(new):.2f}" if bare in floors else "",
                f"{medians[name] / medians[bare]:.2f}" if bare in medians else "",
                "" if limit is None else f"<= {limit:.3f} s",
                verdict(None if limit is None else medians[name] <= limit),
            )
        )
    return Grid(
        "Floors at the measured roofs",
        ("case", "encode ms", "ms/step", "floor s", "median s", "over floor", "floor's tax", "tax",
         "bar", ""),
        told,
    )  # fmt: skip


def _limit(
    name: str, floor: Floor, medians: Mapping[str, float], rows: int, new: int
) -> float | None:
    """Halfway between floor and unfolded, of the cases of different depths and of chains."""
    several, slow = min(rows, TURNS), medians.get(unfolded(name))
    held = (depths_name(several, floor.dtype), chains_name(several, floor.dtype))
    return None if slow is None or name not in held else (floor.lap(new) + slow) / 2


def throughputs(seconds: Seconds, rows: int, dtype: str) -> dict[int, Spread]:
    """Tokens a second over those of the plan's rows, by rows at once."""
    few = seconds.get(mixed_name(rows, DENSITIES[0], dtype))
    if few is None:
        return {}
    found = {rows: few} | {n: seconds.get(rows_name(n, dtype), ()) for n in MANY_ROWS}
    return {
        n: ratios([n * each for each in few], [rows * each for each in many])
        for n, many in found.items()
        if many
    }


def throughput_grid(seconds: Seconds, rows: int, new: int, dtype: str) -> Grid:
    """More rows at once, each beside the fewer rows of the line before: throughput should rise."""
    lines: list[tuple[str, ...]] = []
    before: float | None = None
    for count, over in throughputs(seconds, rows, dtype).items():
        name = mixed_name(rows, DENSITIES[0], dtype) if count == rows else rows_name(count, dtype)
        speed = count * new / statistics.median(seconds[name])
        rises = None if before is None else speed > before
        lines.append(
            (
                name,
                f"{speed:.1f}",
                *(f"{each:.2f}" for each in (over.median, over.least, over.most)),
                "" if before is None else "rising",
                verdict(rises),
            )
        )
        before = speed
    return Grid(
        f"Rows at once, tokens a second over those of {rows} rows",
        ("case", "tokens/s", "median", "min", "max", "bar", ""),
        lines if len(lines) > 1 else [],
    )


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f}"
