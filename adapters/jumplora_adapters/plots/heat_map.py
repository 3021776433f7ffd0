"""Heat maps: shares as colours, with their numbers in the cells.

cividis is read alike with and without red-green blindness, and in grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from jumplora_adapters.plots.style import GUIDE

Cells = NDArray[np.float64]
_COLOURS = "cividis"


def draw_heat(
    axes: Any, cells: Cells, norm: Normalize, texts: Sequence[Sequence[str]] | None = None
) -> Any:
    """The image. Cells that are nan are hatched, and have no text."""
    image = axes.imshow(cells, cmap=_COLOURS, norm=norm, aspect="auto")
    axes.tick_params(length=0, labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for (row, column), value in np.ndenumerate(cells):
        if np.isnan(value):
            axes.add_patch(
                Rectangle(
                    (column - 0.5, row - 0.5),
                    1,
                    1,
                    fill=False,
                    hatch="///",
                    ec=GUIDE,
                    lw=0,
                    zorder=0,
                )
            )
        elif texts is not None:
            axes.text(
                column,
                row,
                texts[row][column],
                ha="center",
                va="center",
                color=ink(norm, value),
                fontsize=8,
            )
    return image


def written(cells: Cells, form: str) -> list[list[str]]:
    """The numbers of all cells, such as "{:.1f}"."""
    return [[form.format(value) for value in row] for row in cells]


def ink(norm: Normalize, value: float) -> str:
    """Black or white, whichever is read better on the cell; the contrast is at least 4.5."""
    light = luminance(colormaps[_COLOURS](float(norm(value))))
    return "black" if (light + 0.05) ** 2 > 0.05 * 1.05 else "white"


def luminance(colour: Sequence[float]) -> float:
    """Relative luminance of sRGB between 0 and 1, as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
