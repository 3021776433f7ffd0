"""The confusion matrix as a picture. matplotlib belongs to the train extra; only this needs it.

cividis is read alike with and without red-green blindness, and in grey.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from jumplora_server.evaluation.certainty import Certainty

_DPI = 144
_DARK = 0.55  # shares below it are so dark that a number on them is white


def write_confusion(certainty: Certainty, path: Path, title: str) -> None:
    """A PNG file: expected options down, given ones across, shares of a line as colours."""
    with rc_context({"text.parse_math": False}):  # a $ in an option is a $
        draw_confusion(certainty, title).savefig(path, dpi=_DPI, format="png")


def draw_confusion(certainty: Certainty, title: str) -> Figure:
    """The figure; each cell that is not empty has its number of rows."""
    counts = np.array(certainty.confusion)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    names = certainty.options
    side = 2.4 + 0.5 * len(names)
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=9)
    axes.set_xlabel("given")
    axes.set_ylabel("expected")
    for (line, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[line, column] < _DARK else "black"
            axes.text(column, line, str(count), ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=axes, label="share of the expected option's rows", shrink=0.8)
    axes.set_title(
        f"{title}\n{100 * certainty.accuracy:.1f} % right, calibration error"
        f" {certainty.calibration_error:.3f}",
        fontsize=10,
    )
    return figure
