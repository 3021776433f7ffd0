"""Overlap of supports as panels: Jaccard below the diagonal, what chance would give above it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jumplora_adapters.plots.heat_map import Cells, draw_heat, written
from jumplora_adapters.plots.style import DPI, plain_text

_FEW = 6  # tasks up to which a cell has room for three decimals
_SOME = 15  # up to which it has room for two
_NAMED = 60  # up to which each task's name is written
_MOST_INCHES = 16.0


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of tasks; `cells` [tasks, tasks] are as `pair_cells` makes them."""

    title: str
    cells: Cells


def pair_cells(tasks: int, pairs: Iterable[tuple[int, int, float, float]]) -> Cells:
    """Of (earlier task, later task, Jaccard, chance); the diagonal is nan."""
    cells = np.full((tasks, tasks), np.nan)
    for first, second, jaccard, chance in pairs:
        cells[second, first] = jaccard
        cells[first, second] = chance
    return cells


def write_overlaps(path: Path, tasks: Sequence[str], panels: Sequence[Panel]) -> None:
    """A PNG file."""
    with plain_text():
        draw_overlaps(tasks, panels).savefig(path, dpi=DPI, format="png")


def draw_overlaps(tasks: Sequence[str], panels: Sequence[Panel]) -> Figure:
    """All panels have the same tasks and colours."""
    columns = min(len(panels), 2 if len(tasks) > _FEW else 3)
    rows = ceil(len(panels) / columns)
    side = min(_MOST_INCHES / columns, 1.4 + _inches(len(tasks)) * len(tasks))
    width = max(columns * side + 1, 4.6)  # the title's
    figure = Figure(figsize=(width, rows * (side + 0.4) + 0.3), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    norm = Normalize(0, max(float(np.nanmax(panel.cells)) for panel in panels) or 1)
    image: Any = None
    for axes, panel in zip(grid, panels, strict=False):
        image = draw_heat(axes, panel.cells, norm, _texts(panel.cells))
        every = ceil(len(tasks) / _NAMED)
        places = range(0, len(tasks), every)
        names = [tasks[place] for place in places]
        axes.set_xticks(places, names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(places, names)
        axes.set_title(panel.title, fontsize=10)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.colorbar(image, ax=grid, label="shared of the union", fraction=0.04, pad=0.02, aspect=40)
    figure.suptitle("Overlap of supports\nJaccard below the diagonal, chance above it")
    return figure


def _inches(tasks: int) -> float:
    """Of a cell."""
    return 0.62 if tasks <= _FEW else 0.42 if tasks <= _SOME else 0.26


def _texts(cells: Cells) -> list[list[str]] | None:
    if len(cells) > _SOME:
        return None
    return written(cells, "{:.3f}" if len(cells) <= _FEW else "{:.2f}")
