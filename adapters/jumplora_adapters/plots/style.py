"""How all plots look: series that differ without their colours, axes, legends and files.

matplotlib belongs to the train extra, so nothing that serves imports this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

DPI = 144
COLOURS = ("#0072B2", "#C65000", "#007F5F", "#B0568A", "#8A6500", "#2F7FB5", "#000000")
"""After Okabe and Ito, whom colour-blind readers tell apart; darker, for lines on white in grey."""
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (7, 1.5, 1, 1.5, 1, 1.5)))
MARKERS = "osD^vPX"
GUIDE = "#767676"
"""Of lines that mark a place."""
_MARKED = 6  # markers of one line, however many points it has


@dataclass(frozen=True, slots=True)
class Look:
    """Of one series. Of 35 in one plot no two share dashes and marker."""

    colour: str
    dashes: Any
    marker: str

    @classmethod
    def of(cls, number: int) -> Look:
        """Of the series of this number, from 0."""
        return cls(
            COLOURS[number % len(COLOURS)],
            DASHES[number % len(DASHES)],
            MARKERS[number % len(MARKERS)],
        )

    def line(self, points: int) -> dict[str, Any]:
        """What `Axes.plot` takes for a line through so many points; a few of them are marked."""
        return {
            "color": self.colour,
            "ls": self.dashes,
            "marker": self.marker,
            "markevery": max(1, points // _MARKED),
            "ms": 4,
            "lw": 1.6,
        }


@contextmanager
def plain_text() -> Iterator[None]:
    """Figures that are made and written inside show a $ in a name as a $."""
    with rc_context({"text.parse_math": False}):
        yield


def tidy(axes: Any) -> None:
    """Lines across and no box."""
    axes.grid(axis="y", color="#dddddd", lw=0.7)
    axes.tick_params(labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def legend(figure: Figure, axes: Any) -> None:
    """Below the panels, each name once."""
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(
        list(once.values()),
        list(once),
        loc="outside lower center",
        ncols=min(3, max(1, len(once))),
        frameon=False,
        fontsize=9,
        handlelength=3.6,  # long enough for the dashes
    )
