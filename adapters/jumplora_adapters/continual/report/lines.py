"""Line plots: scores while tasks are learned, density and threshold over the steps.

Dashes and markers tell the groups apart as their colours do.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jumplora_adapters.continual.report.curves import (
    density_curves,
    task_ends,
    threshold_curves,
)
from jumplora_adapters.continual.report.groups import Group
from jumplora_adapters.continual.report.numbers import SCORED
from jumplora_adapters.continual.report.runs import Scoring
from jumplora_adapters.continual.report.spread import Spread
from jumplora_adapters.continual.report.summary import GroupSummary
from jumplora_adapters.plots.style import GUIDE, Look, legend, tidy

_COLUMNS = 4


def draw_scores(summaries: Sequence[GroupSummary], scoring: Scoring) -> Figure | None:
    """A panel for each task, a line for each group, from the task's own stage on.

    Joint training and independent adapters are level lines. None where nothing is scored so.
    """
    drawn = [summary for summary in summaries if any(summary.cells[scoring][1:])]
    tasks = summaries[0].group.tasks
    if not drawn:
        return None
    columns = min(_COLUMNS, len(tasks))
    rows = ceil(len(tasks) / columns)
    figure = Figure(figsize=(2.9 * columns + 0.4, 2.3 * rows + 1.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True)
    for n, (axes, task) in enumerate(zip(panels.flat, tasks, strict=False)):
        for number, summary in enumerate(drawn):
            _score_line(axes, summary, scoring, n, number)
        axes.set_title(task, fontsize=10)
        axes.set_ylim(-3, 103)
        axes.set_xlim(0.7, len(tasks) + 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axes)
    for axes in panels.flat[len(tasks) :]:
        axes.set_axis_off()
    for axes in panels.flat[max(0, len(tasks) - columns) : len(tasks)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("tasks learned", fontsize=10)
    figure.supylabel(f"score, %, {SCORED[scoring]}", fontsize=10)
    legend(figure, panels.flat[0])
    return figure


def draw_gate(summaries: Sequence[GroupSummary]) -> Figure:
    """Density above, threshold below, over the steps of the run; a line marks each task's end."""
    group = summaries[0].group
    figure = Figure(figsize=(9.5, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for number, summary in enumerate(summaries):
        for curve in density_curves(summary.group):
            _line(above, curve, summary.group, number, scale=100)
        for curve in threshold_curves(summary.group):
            _line(below, curve, summary.group, number, scale=1)
    above.set_ylabel("density of the task's update, %")
    above.set_ylim(bottom=0)
    below.set_ylabel("threshold tau")
    below.set_ylim(bottom=0)  # from 0, so that a threshold that hardly moved looks like one
    below.set_xlabel("steps, through all tasks")
    starts = (0, *task_ends(group))
    for axes in (above, below):
        for end in starts[1:-1]:
            axes.axvline(end, color=GUIDE, lw=0.8)
        axes.set_xlim(0, 1.01 * starts[-1])
        tidy(axes)
    _name_tasks(above, group)
    legend(figure, above)
    return figure


def _score_line(axes: Any, summary: GroupSummary, scoring: Scoring, task: int, number: int) -> None:
    name = summary.group.tasks[task]
    states = summary.cells[scoring]
    method = summary.group.config.method
    if method in ("joint", "independent"):
        level = states[1 if method == "joint" else task + 1].get(name)
        if level is not None:
            points = [(stage, level) for stage in range(1, len(summary.group.tasks) + 1)]
            _line(axes, points, summary.group, number, scale=100)
        return
    points = [
        (stage, states[stage][name])
        for stage in range(task + 1, len(states))
        if name in states[stage]
    ]
    _line(axes, points, summary.group, number, scale=100)


def _line(
    axes: Any, points: Sequence[tuple[int, Spread]], group: Group, number: int, *, scale: float
) -> None:
    """Mean, with a band of one standard deviation where there are several seeds."""
    if not points:
        return
    look = Look.of(number)
    steps = [step for step, _ in points]
    means = [scale * value.mean for _, value in points]
    axes.plot(steps, means, label=group.label, **look.line(len(points)))
    deviations = [scale * (value.deviation or 0) for _, value in points]
    if any(deviations):
        axes.fill_between(
            steps,
            [mean - deviation for mean, deviation in zip(means, deviations, strict=True)],
            [mean + deviation for mean, deviation in zip(means, deviations, strict=True)],
            color=look.colour,
            alpha=0.15,
            lw=0,
        )


def _name_tasks(axes: Any, group: Group) -> None:
    """Over the panel, each task's name in the middle of its steps."""
    starts = (0, *task_ends(group))
    top = axes.secondary_xaxis("top")
    middles = [(a + b) / 2 for a, b in pairwise(starts)]
    many = len(middles) > 6
    top.set_xticks(
        middles,
        group.tasks[: len(middles)],
        rotation=40 if many else 0,
        ha="left" if many else "center",
    )
    top.tick_params(length=0, labelsize=9)
    top.spines["top"].set_visible(False)
