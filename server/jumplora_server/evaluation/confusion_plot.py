"""The confusion matrix as a picture. matplotlib belongs to the train extra; only this needs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jumplora_adapters.plots.heat_map import draw_heat
from jumplora_adapters.plots.style import DPI, plain_text
from jumplora_server.evaluation.certainty import Certainty


def write_confusion(certainty: Certainty, path: Path, title: str) -> None:
    """A PNG file: expected options down, given ones across, shares of a line as colours."""
    with plain_text():
        draw_confusion(certainty, title).savefig(path, dpi=DPI, format="png")


def draw_confusion(certainty: Certainty, title: str) -> Figure:
    """The figure; each cell that is not empty has its number of rows."""
    counts = np.array(certainty.confusion)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    names = certainty.options
    side = 2.4 + 0.5 * len(names)
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.subplots()
    texts = [[str(count) if count else "" for count in line] for line in certainty.confusion]
    image = draw_heat(axes, shares, Normalize(0, 1), texts)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("given")
    axes.set_ylabel("expected")
    figure.colorbar(image, ax=axes, label="share of the expected option's rows", shrink=0.8)
    axes.set_title(
        f"{title}\n{100 * certainty.accuracy:.1f} % right, calibration error"
        f" {certainty.calibration_error:.3f}",
        fontsize=10,
    )
    return figure
