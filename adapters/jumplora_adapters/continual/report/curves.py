"""Density and threshold over the steps of a whole run, over the seeds of a group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean

from jumplora_adapters.continual.report.groups import Group
from jumplora_adapters.continual.report.runs import TaskResult
from jumplora_adapters.continual.report.spread import Spread, spread

Curve = tuple[tuple[int, Spread], ...]
"""Step -> value over the seeds; steps count through all tasks of a run."""


def density_curves(group: Group) -> tuple[Curve, ...]:
    """One curve a task: density of its own update while it is trained."""
    return _curves(group, lambda result: result.density_by_step or ())


def threshold_curves(group: Group) -> tuple[Curve, ...]:
    """One curve a task: tau, mean over the threshold groups."""
    return _curves(
        group,
        lambda result: [
            (step, mean(tau.values())) for step, tau in result.tau_by_step or () if tau
        ],
    )


def task_ends(group: Group) -> tuple[int, ...]:
    """The step at which each task ends, in the count of the curves."""
    ends = [0]
    for result in group.runs[0].results:
        ends.append(ends[-1] + result.steps)
    return tuple(ends[1:])


def _curves(
    group: Group, points: Callable[[TaskResult], Sequence[tuple[int, float]]]
) -> tuple[Curve, ...]:
    starts = (0, *task_ends(group))
    tasks = zip(*(run.results for run in group.runs), strict=True)
    return tuple(
        _curve(start, [points(result) for result in results])
        for start, results in zip(starts, tasks, strict=False)
    )


def _curve(start: int, seeds: Sequence[Sequence[tuple[int, float]]]) -> Curve:
    """Over the steps that every seed has."""
    by_step: dict[int, list[float]] = {}
    for points in seeds:
        for step, value in points:
            by_step.setdefault(start + step, []).append(value)
    return tuple(
        (step, told)
        for step, values in sorted(by_step.items())
        if len(values) == len(seeds) and (told := spread(values))
    )
