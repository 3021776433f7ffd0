"""A training as a picture: loss, dev score, density and thresholds over its steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from jumplora_adapters.plots.style import DPI, GUIDE, Look, plain_text, tidy
from jumplora_adapters.training.curves import Curves, Points, read_curves, running_mean

_NAMED = 7  # thresholds up to which each has its line


def write_training(work: Path, path: Path, task: str, selected_step: int, score: str) -> None:
    """A PNG file of the log in the folder `work`. `score` is the name of dev's score."""
    with plain_text():
        figure = draw_training(read_curves(work), task, selected_step, score)
        figure.savefig(path, dpi=DPI, format="png")


def draw_training(curves: Curves, task: str, selected_step: int, score: str) -> Figure:
    """A panel for each of the four that was measured, the steps across."""
    panels = [_draw_loss]
    if curves.dev:
        panels.append(lambda axes, curves: _draw_dev(axes, curves, selected_step, score))
    if curves.density:
        panels += [_draw_density, _draw_tau]
    figure = Figure(figsize=(7.5, 0.9 + 1.9 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
    every: list[Any] = list(grid[:, 0])
    for axes, draw in zip(every, panels, strict=True):
        draw(axes, curves)
        _mark(axes, curves)
        tidy(axes)
    every[-1].set_xlabel("optimizer steps")
    every[-1].set_xlim(0, 1.01 * curves.loss[-1][0])
    _name_marks(every[0], curves)
    figure.align_ylabels()
    figure.suptitle(task, fontsize=11)
    return figure


def _draw_loss(axes: Any, curves: Curves) -> None:
    window, smooth = running_mean(curves.loss)
    axes.plot(*_xy(curves.loss), color=GUIDE, lw=1.1, ls=":", label="of each step")
    if window > 1:
        look = Look.of(0).line(len(smooth)) | {"marker": ""}
        axes.plot(*_xy(smooth), label=f"mean of {window} steps", **(look | {"lw": 2.2}))
        axes.legend(frameon=False, fontsize=8)
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)


def _draw_dev(axes: Any, curves: Curves, selected_step: int, score: str) -> None:
    points = [(step, 100 * value) for step, value in curves.dev]
    axes.plot(*_xy(points), label="of each state", **(Look.of(1).line(0) | {"marker": "s"}))
    kept = [point for point in points if point[0] == selected_step]
    axes.plot(*_xy(kept), ls="", marker="o", ms=11, mfc="none", mec="black", label="kept")
    axes.legend(frameon=False, fontsize=8)
    axes.set_ylabel(f"dev {score.replace('_', ' ')}, %")
    axes.set_ylim(-3, 103)


def _draw_density(axes: Any, curves: Curves) -> None:
    points = [(step, 100 * value) for step, value in curves.density]
    axes.plot(*_xy(points), **Look.of(2).line(len(points)))
    axes.set_ylabel("density, %")
    axes.set_ylim(bottom=0)


def _draw_tau(axes: Any, curves: Curves) -> None:
    """From 0, so that a threshold that hardly moved looks like one."""
    if len(curves.tau) <= _NAMED:
        for number, (group, points) in enumerate(curves.tau.items()):
            axes.plot(*_xy(points), label=group, **Look.of(number).line(len(points)))
        if len(curves.tau) > 1:
            axes.legend(frameon=False, fontsize=8, ncols=2, handlelength=3.6)
    else:
        least, middle, most = _range(curves.tau)
        axes.fill_between(*_xy(least), [value for _, value in most], color=GUIDE, alpha=0.3, lw=0)
        label = f"mean, least and most of {len(curves.tau)}"
        axes.plot(*_xy(middle), label=label, **Look.of(0).line(len(middle)))
        axes.legend(frameon=False, fontsize=8)
    axes.set_ylabel("threshold tau")
    axes.set_ylim(0, 1.15 * max(value for points in curves.tau.values() for _, value in points))


def _range(tau: Mapping[str, Points]) -> tuple[Points, Points, Points]:
    """Least, mean and most of all groups at each step."""
    by_step: dict[int, list[float]] = {}
    for points in tau.values():
        for step, value in points:
            by_step.setdefault(step, []).append(value)
    steps = sorted(by_step.items())
    return (
        [(step, min(values)) for step, values in steps],
        [(step, sum(values) / len(values)) for step, values in steps],
        [(step, max(values)) for step, values in steps],
    )


def _mark(axes: Any, curves: Curves) -> None:
    for step, dashes in ((curves.gate_step, "--"), (curves.full_step, "-")):
        if step is not None:
            axes.axvline(step, color=GUIDE, lw=1, ls=dashes, zorder=0)


def _name_marks(axes: Any, curves: Curves) -> None:
    """Over the first panel."""
    marks = {curves.gate_step: "threshold set", curves.full_step: "gate closed"}
    named = {step: name for step, name in marks.items() if step is not None}
    if named:
        top = axes.secondary_xaxis("top")
        top.set_xticks([*named], [*named.values()], fontsize=8)
        top.tick_params(length=0)
        top.spines["top"].set_visible(False)


def _xy(points: Points) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]
