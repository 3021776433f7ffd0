"""The plots of a report: which there are, and what their files are called.

matplotlib belongs to the train extra, so only this module and those it draws with import it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import chain, count
from pathlib import Path

from matplotlib.figure import Figure

from jumplora_adapters.continual.report.curves import density_curves, task_ends
from jumplora_adapters.continual.report.heat_maps import draw_matrix, draw_overlap
from jumplora_adapters.continual.report.lines import draw_gate, draw_scores
from jumplora_adapters.continual.report.markdown import Plot
from jumplora_adapters.continual.report.numbers import SCORED
from jumplora_adapters.continual.report.pairs import mean_pairs
from jumplora_adapters.continual.report.summary import SCORINGS, GroupSummary
from jumplora_adapters.plots.style import DPI, plain_text

_LONGEST = 120  # characters of a file name, of which systems take 255


def write_plots(summaries: Sequence[GroupSummary], folder: Path) -> tuple[Plot, ...]:
    """PNG files in `folder`, which is there. Plots without data are left out."""
    plots: list[Plot] = []
    with plain_text():
        for title, name, figure in _figures(summaries):
            file = _free_name(name, {plot.file for plot in plots})
            figure.savefig(folder / file, dpi=DPI)
            plots.append(Plot(file, title))
    return tuple(plots)


def _figures(summaries: Sequence[GroupSummary]) -> Iterator[tuple[str, str, Figure]]:
    """Title, name and figure, one at a time: a figure takes megabytes."""
    for part in _parted(summaries, lambda summary: ()):
        order = _order_name(part[0], summaries)
        for scoring in SCORINGS:
            if figure := draw_scores(part, scoring):
                title = f"Scores while tasks are learned, {SCORED[scoring]}, {order}"
                yield title, f"forgetting-{scoring}-{order}", figure
        if overlapping := [summary for summary in part if mean_pairs(summary.group)]:
            title = f"Overlap of the tasks' supports, {order}"
            yield title, f"overlap-{order}", draw_overlap(overlapping)
    gated = [summary for summary in summaries if any(density_curves(summary.group))]
    for part in _parted(gated, lambda summary: task_ends(summary.group)):
        order = _order_name(part[0], summaries)
        yield f"Density and threshold over the steps, {order}", f"gate-{order}", draw_gate(part)
    for summary in summaries:
        label = summary.group.label
        yield f"Accuracy matrix of {label}", f"matrix-{label}", draw_matrix(summary)


def _free_name(name: str, taken: Container[str]) -> str:
    """A file name of letters, digits and dots that is not taken yet."""
    stem = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:_LONGEST]
    names = chain([f"{stem}.png"], (f"{stem}-{number}.png" for number in count(2)))
    return next(file for file in names if file not in taken)


def _parted(
    summaries: Sequence[GroupSummary], more: Callable[[GroupSummary], tuple[int, ...]]
) -> list[list[GroupSummary]]:
    """Groups of one backbone and order, and of one `more`, which one figure can hold."""
    parts: dict[object, list[GroupSummary]] = {}
    for summary in summaries:
        config = summary.group.config
        key = (config.backbone.identity, config.order.tasks, more(summary))
        parts.setdefault(key, []).append(summary)
    return list(parts.values())


def _order_name(summary: GroupSummary, every: Sequence[GroupSummary]) -> str:
    """The order, and the backbone where there are several."""
    config = summary.group.config
    if len({other.group.config.backbone.identity for other in every}) == 1:
        return config.order.name
    return f"{config.order.name}, {config.backbone.name}"
