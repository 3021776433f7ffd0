"""Whether a figure can be read in black and white: by its artists, and by what it renders to."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import imread

from jumplora_adapters.plots.heat_map import luminance

LEAST_OF_TEXT = 4.5  # WCAG 2, AA
LEAST_OF_LINES = 3.0  # WCAG 2, graphics


def contrast(first: float, second: float) -> float:
    """Of two luminances, by WCAG 2."""
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)


def check_figure(figure: Figure) -> None:
    """Series differ without colours and stand out from the paper; texts from their cells."""
    for axes in figure.axes:
        named = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
        looks: dict[str, object] = {}
        for line in named:
            label = str(line.get_label())
            look = (line._dash_pattern, line.get_marker(), line.get_fillstyle())  # type: ignore[attr-defined]
            assert looks.setdefault(label, look) == look, f"{label} has two looks"
            paper = contrast(luminance(to_rgba(line.get_color())), 1.0)
            assert paper >= LEAST_OF_LINES, f"{label} is too light: {paper:.1f}"
        assert len(set(map(str, looks.values()))) == len(looks), f"two series look alike: {looks}"
        bars = [bars for bars in axes.containers if hasattr(bars, "patches")]
        hatches = [bars.patches[0].get_hatch() for bars in bars if bars.patches]
        assert len(set(hatches)) == len(hatches), f"two kinds of bars look alike: {hatches}"
    for text, cell in _texts_on_cells(figure):
        told = contrast(luminance(to_rgba(text.get_color())), luminance(cell))
        assert told >= LEAST_OF_TEXT, f"{text.get_text()} has a contrast of {told:.1f}"
    _check_rendered(figure)


def _texts_on_cells(figure: Figure) -> Iterator[tuple[Any, Any]]:
    for axes in figure.axes:
        for image in axes.images:
            values: Any = image.get_array()
            for text in axes.texts:
                column, row = map(round, text.get_position())
                yield text, image.cmap(image.norm(values[row, column]))


def _check_rendered(figure: Figure) -> None:
    """In grey each panel has at least one tone besides its ground."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=60)
    file.seek(0)
    grey = imread(file)[..., :3] @ np.array([0.2126, 0.7152, 0.0722])
    height = len(grey)
    for axes in figure.axes:
        if axes.axison and (axes.lines or axes.images):
            box = axes.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
            left, low, right, top = (round(60 * side) for side in box.extents)
            panel = grey[height - top : height - low, left:right]
            assert panel.max() - panel.min() > 0.2, "a panel is one grey"
