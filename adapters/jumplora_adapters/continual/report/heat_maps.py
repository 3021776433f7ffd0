"""Heat maps: a group's scores by state and task, and its supports' overlap by pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jumplora_adapters.continual.report.numbers import SCORED
from jumplora_adapters.continual.report.pairs import mean_pairs
from jumplora_adapters.continual.report.runs import Scoring
from jumplora_adapters.continual.report.stages import stage_names
from jumplora_adapters.continual.report.summary import SCORINGS, GroupSummary
from jumplora_adapters.plots.heat_map import Cells, draw_heat, ink, written
from jumplora_adapters.plots.overlap_map import Panel, draw_overlaps, pair_cells

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
    norm = Normalize(0, 100)
    image: Any = None
    for axes, scoring in zip(panels, scorings, strict=True):
        cells = _scores(summary, scoring)
        texts = written(cells, "{:.1f}" if len(tasks) <= _FEW else "{:.0f}")
        image = draw_heat(axes, cells, norm, texts)
        axes.set_xticks(range(len(tasks)), tasks, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.set_title(SCORED[scoring], fontsize=10)
        for stage, task in _own_stages(summary):
            colour = ink(norm, cells[stage, task])
            place = (task - 0.44, stage - 0.44)
            axes.add_patch(Rectangle(place, 0.88, 0.88, fill=False, edgecolor=colour, lw=1.5))
    figure.colorbar(image, ax=list(panels), label="score, %", fraction=0.04, pad=0.02)
    seeds = len(summary.group.runs)
    figure.suptitle(f"{summary.group.label}: mean of {seeds} seed{'s' if seeds > 1 else ''}")
    return figure


def draw_overlap(summaries: Sequence[GroupSummary]) -> Figure:
    """A panel for each group; all have the same tasks."""
    tasks = summaries[0].group.tasks
    panels: list[Panel] = []
    for summary in summaries:
        times = summary.costs["times_chance"]
        told = f"\n{times.mean:.2f} times chance" if times else ""
        pairs = ((p.first, p.second, p.jaccard, p.chance) for p in mean_pairs(summary.group))
        panels.append(Panel(f"{summary.group.label}{told}", pair_cells(len(tasks), pairs)))
    return draw_overlaps(tasks, panels)


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
