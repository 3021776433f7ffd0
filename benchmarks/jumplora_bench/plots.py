"""The two kinds of plots that reports have: bars with a range, and lines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jumplora_bench.extra import peer

_DPI = 144


@dataclass(frozen=True, slots=True)
class BarPlot:
    """Horizontal bars from zero: label -> (value, least, most)."""

    title: str
    unit: str
    bars: Mapping[str, tuple[float, float, float]]

    def file(self, prefix: str) -> str:
        """The name of its file."""
        return _file(prefix, self.title)


@dataclass(frozen=True, slots=True)
class LinePlot:
    """Lines through points (x, y): label -> points."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    is_log: tuple[bool, bool] = (False, False)

    def file(self, prefix: str) -> str:
        """The name of its file."""
        return _file(prefix, self.title)


Plot = BarPlot | LinePlot


def draw(plot: Plot, path: Path) -> None:
    """Write the plot as PNG. Raises PeerMissing without matplotlib."""
    figure_of(plot).savefig(path, dpi=_DPI)


def figure_of(plot: Plot) -> Any:
    """Raises PeerMissing without matplotlib."""
    figure = peer("matplotlib.figure").Figure(layout="constrained")
    axes: Any = figure.add_subplot()
    axes.set_title(plot.title)
    if isinstance(plot, BarPlot):
        figure.set_size_inches(8, 1 + 0.35 * len(plot.bars))
        _draw_bars(plot, axes)
    else:
        figure.set_size_inches(7, 4)
        _draw_lines(plot, axes)
    return figure


def _draw_bars(plot: BarPlot, axes: Any) -> None:
    values = list(plot.bars.values())
    below = [value - least for value, least, _ in values]
    above = [most - value for value, _, most in values]
    axes.barh(list(plot.bars), [value for value, _, _ in values], xerr=[below, above], capsize=3)
    axes.invert_yaxis()  # the first on top
    axes.set_xlabel(plot.unit)


def _draw_lines(plot: LinePlot, axes: Any) -> None:
    from jumplora_adapters.plots.style import Look

    for number, (label, points) in enumerate(plot.lines.items()):
        look = Look.of(number).line(0)
        axes.plot([x for x, _ in points], [y for _, y in points], label=label, **look)
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)
    if plot.is_log[0]:
        axes.set_xscale("log")
    if plot.is_log[1]:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    if len(plot.lines) > 1:
        axes.legend(handlelength=3.6)  # long enough for the dashes


def _file(prefix: str, title: str) -> str:
    return f"{prefix}-{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}.png"
