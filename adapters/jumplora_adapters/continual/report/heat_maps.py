"""Heat maps: a group's scores by state and task, and its supports' overlap by pair.

cividis is read alike with and without red-green blindness, and in grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from jumplora_adapters.continual.report.numbers import SCORED
from jumplora_adapters.continual.report.pairs import mean_pairs
from jumplora_adapters.continual.report.runs import Scoring
from jumplora_adapters.continual.report.stages import stage_names
from jumplora_adapters.continual.report.summary import SCORINGS, GroupSummary

Cells = NDArray[np.float64]
_COLOURS = "cividis"
_FEW = 6  # tasks up to which a cell has room for decimals


def draw_matrix(summary: GroupSummary) -> Figure:
    """States down, tasks across; a panel for each scoring. A frame marks a task's own stage."""
    tasks = summary.group.tasks
    scorings = [scoring for scoring in SCORINGS if any(summary.cells[scoring])]
    names = stage_names(summary.group.config)
    across, down = (0.75, 0.5) if len(tasks) <= _FEW else (0.42, 0.36)  # inches a cell
    width, height = 1.6 + across * len(tasks), 1.7 + down * len(names)
    figure = Figure(figsize=(width * len(scorings) + 1, height), layout="constrained")
    panels = figure.subplots(1, len(scorings), squeeze=False, sharey=True)[0]
    image: Any = None
    for axes, scoring in zip(panels, scorings, strict=True):
        cells = _scores(summary, scoring)
        image = _heat(axes, cells, Normalize(0, 100), "{:.1f}" if len(tasks) <= _FEW else "{:.0f}")
        axes.set_xticks(range(len(tasks)), tasks, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.set_title(SCORED[scoring], fontsize=10)
        for stage, task in _own_stages(summary):
            axes.add_patch(
                Rectangle((task - 0.5, stage - 0.5), 1, 1, fill=False, edgecolor="black", lw=1.5)
            )
    figure.colorbar(image, ax=list(panels), label="score, %", fraction=0.04, pad=0.02)
    seeds = len(summary.group.runs)
    figure.suptitle(f"{summary.group.label}: mean of {seeds} seed{'s' if seeds > 1 else ''}")
    return figure


def draw_overlap(summaries: Sequence[GroupSummary]) -> Figure:
    """A panel for each group: Jaccard below the diagonal, its chance level above it."""
    tasks = summaries[0].group.tasks
    columns = min(len(summaries), 2 if len(tasks) > _FEW else 3)
    rows = ceil(len(summaries) / columns)
    side = 1.4 + (0.62 if len(tasks) <= _FEW else 0.3) * len(tasks)
    width = max(columns * side + 1, 4.6)  # the title's
    figure = Figure(figsize=(width, rows * (side + 0.4) + 0.3), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    maps = [_overlap(summary) for summary in summaries]
    norm = Normalize(0, max(float(np.nanmax(cells)) for cells in maps) or 1)
    image: Any = None
    for axes, summary, cells in zip(grid, summaries, maps, strict=False):
        image = _heat(axes, cells, norm, "{:.3f}" if len(tasks) <= _FEW else "")
        axes.set_xticks(range(len(tasks)), tasks, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(tasks)), tasks)
        times = summary.costs["times_chance"]
        told = f"\n{times.mean:.2f} times chance" if times else ""
        axes.set_title(f"{summary.group.label}{told}", fontsize=10)
    for axes in grid[len(summaries) :]:
        axes.set_axis_off()
    figure.colorbar(image, ax=grid, label="shared of the union", fraction=0.04, pad=0.02, aspect=40)
    figure.suptitle("Overlap of supports\nJaccard below the diagonal, chance above it")
    return figure


def _heat(axes: Any, cells: Cells, norm: Normalize, written: str) -> Any:
    """`written` formats a cell's number; empty: none. Cells that are nan stay blank."""
    image = axes.imshow(cells, cmap=_COLOURS, norm=norm, aspect="auto")
    axes.set_facecolor("#eeeeee")
    axes.tick_params(length=0, labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for (row, column), value in np.ndenumerate(cells):
        if written and not np.isnan(value):
            colour = "white" if norm(value) < 0.55 else "black"
            axes.text(
                column,
                row,
                written.format(value),
                ha="center",
                va="center",
                color=colour,
                fontsize=8,
            )
    return image


def _scores(summary: GroupSummary, scoring: Scoring) -> Cells:
    """Per cent, [states, tasks]."""
    return np.array(
        [
            [100 * cells[task].mean if task in cells else np.nan for task in summary.group.tasks]
            for cells in summary.cells[scoring]
        ]
    )


def _own_stages(summary: GroupSummary) -> list[tuple[int, int]]:
    if summary.group.config.method == "joint":
        return []
    return [(task + 1, task) for task in range(len(summary.group.tasks))]


def _overlap(summary: GroupSummary) -> Cells:
    """[tasks, tasks], the diagonal blank."""
    count = len(summary.group.tasks)
    cells = np.full((count, count), np.nan)
    for pair in mean_pairs(summary.group):
        cells[pair.second, pair.first] = pair.jaccard
        cells[pair.first, pair.second] = pair.chance
    return cells
