"""All numbers of a report but the comparisons: what each group of runs scored, cost and did.

Pure: it reads no file and prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal, get_args

from jumplora_adapters.continual.metrics import (
    Scores,
    backward_transfer,
    final_over_scratch,
    forgetting,
    joint_accuracy,
    overall_accuracy,
    own_accuracy,
    own_over_scratch,
    own_scores,
    zero_shot_transfer,
)
from jumplora_adapters.continual.report.groups import Group, are_comparable, group_runs
from jumplora_adapters.continual.report.runs import Run, Scoring, scores_of
from jumplora_adapters.continual.report.spread import Spread, spread
from jumplora_adapters.network import kind_of
from jumplora_adapters.threshold_move import threshold_moves

Measure = Literal[
    "overall",
    "backward",
    "forgetting",
    "zero_shot",
    "final_over_scratch",
    "own_over_scratch",
    "own",
    "alone",
    "independent",
]
"""Of continual.metrics; the last three are means over the tasks of other ways to serve them: every
task by the state it was trained as, by its own delta alone, by an adapter that met no other."""
Cost = Literal[
    "density",
    "jaccard",
    "chance",
    "times_chance",
    "minutes",
    "cpu_minutes",
    "seconds_per_step",
    "peak_memory_bytes",
]
SCORINGS: tuple[Scoring, ...] = get_args(Scoring)
MEASURES: tuple[Measure, ...] = get_args(Measure)
COSTS: tuple[Cost, ...] = get_args(Cost)

Values = Mapping[Measure, float | None]


@dataclass(frozen=True, slots=True)
class GateMove:
    """One task's thresholds in one group, over seeds and threshold groups."""

    task: str
    start: Spread
    end: Spread
    ratio: Spread
    density: Spread | None
    warnings: int


@dataclass(frozen=True, slots=True)
class TrainingWarning:
    """What the training of one task in one run warned of."""

    seed: int
    task: str
    text: str


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """`cells[scoring][i]` is the state after i tasks (0: the bare backbone), mean over the seeds.

    A joint training has the bare backbone and one state; `label_loss` is the share of the BWT under
    free generation that is gone among the options, None where nothing was lost. `sites` is the
    mean density by kind of module, over tasks and seeds; empty for dense updates.
    """

    group: Group
    by_seed: Mapping[Scoring, Mapping[int, Values]]
    measures: Mapping[Scoring, Mapping[Measure, Spread | None]]
    costs: Mapping[Cost, Spread | None]
    cells: Mapping[Scoring, tuple[Mapping[str, Spread], ...]]
    label_loss: float | None
    sites: Mapping[str, float]
    gate: tuple[GateMove, ...]
    warnings: tuple[TrainingWarning, ...]


def summarise(runs: Sequence[Run]) -> tuple[GroupSummary, ...]:
    """One summary a group, in the order of the groups. Raises DataError (see `group_runs`)."""
    return tuple(_summary(group, runs) for group in group_runs(runs))


def _summary(group: Group, every: Sequence[Run]) -> GroupSummary:
    by_seed = {
        scoring: {
            run.config.seed: measures_of(run, scoring, scratch_of(run, every)) for run in group.runs
        }
        for scoring in SCORINGS
    }
    costs = [_costs(run) for run in group.runs]
    return GroupSummary(
        group=group,
        by_seed=by_seed,
        measures={
            scoring: {
                name: spread(values[name] for values in by_seed[scoring].values())
                for name in MEASURES
            }
            for scoring in SCORINGS
        },
        costs={name: spread(cost[name] for cost in costs) for name in COSTS},
        cells={scoring: _cells(group, scoring) for scoring in SCORINGS},
        label_loss=label_loss(by_seed["exact_match"], by_seed["best_option"]),
        sites=_sites(group),
        gate=_gate(group),
        warnings=tuple(
            TrainingWarning(run.config.seed, result.task, warning)
            for run in group.runs
            for result in run.results
            for warning in result.warnings
        ),
    )


def scratch_of(run: Run, every: Iterable[Run]) -> Run | None:
    """The run of independent adapters to measure `run` against; itself never.

    Of the same backbone, tasks, seed, gate and settings; the order of its tasks plays no part, as
    its adapters never met. A pruned run is measured against adapters that were not pruned.
    """
    if run.config.method in ("independent", "joint"):
        return None
    for other in every:
        config = other.config
        if (
            config.method == "independent"
            and config.prune is None
            and (config.gate, config.seed) == (run.config.gate, run.config.seed)
            and are_comparable(run, other)
        ):
            return other
    return None


def measures_of(run: Run, scoring: Scoring, scratch: Run | None) -> dict[Measure, float | None]:
    """Every measure that the run's method has; None for the others."""
    matrix = run.scores(scoring)
    none: dict[Measure, float | None] = dict.fromkeys(MEASURES)
    match run.config.method:
        case "joint":
            return {**none, "overall": joint_accuracy(matrix)}
        case "independent":
            own = own_accuracy(matrix)
            return {**none, "overall": own, "own": own, "independent": own}
    alone = scores_of(run.matrix.alone, scoring)
    learned: Scores = own_scores(scratch.scores(scoring)) if scratch else {}
    return {
        "overall": overall_accuracy(matrix),
        "backward": backward_transfer(matrix),
        "forgetting": forgetting(matrix),
        "zero_shot": zero_shot_transfer(matrix),
        "final_over_scratch": final_over_scratch(matrix, learned),
        "own_over_scratch": own_over_scratch(matrix, learned),
        "own": own_accuracy(matrix),
        "alone": _whole_mean([alone.get(task) for task in matrix.tasks]),
        "independent": _whole_mean([learned.get(task) for task in matrix.tasks]),
    }


def label_loss(free: Mapping[int, Values], options: Mapping[int, Values]) -> float | None:
    """1 - BWT among options / BWT free, each the mean over the seeds that have both.

    1: all that was lost was the way to spell the answer; 0: none of it. None unless the mean BWT
    under free generation is below 0.
    """
    pairs = [(free[seed]["backward"], options[seed]["backward"]) for seed in free]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not known or (lost := mean(a for a, _ in known)) >= 0:
        return None
    return 1 - mean(b for _, b in known) / lost


def _costs(run: Run) -> dict[Cost, float | None]:
    results = run.results
    jaccard = _whole_mean([pair.jaccard for pair in run.pairs])
    chance = _whole_mean([pair.chance for pair in run.pairs])
    peaks = [r.peak_memory_bytes for r in results if r.peak_memory_bytes is not None]
    return {
        "density": _whole_mean([result.density for result in results]),
        "jaccard": jaccard,
        "chance": chance,
        "times_chance": jaccard / chance if jaccard is not None and chance else None,
        "minutes": sum(result.seconds for result in results) / 60,
        "cpu_minutes": sum(result.cpu_seconds for result in results) / 60,
        "seconds_per_step": _whole_mean([result.seconds_per_step for result in results]),
        "peak_memory_bytes": max(peaks, default=None),
    }


def _cells(group: Group, scoring: Scoring) -> tuple[Mapping[str, Spread], ...]:
    matrices = [run.scores(scoring) for run in group.runs]
    stages = range(len(matrices[0].after) + 1)
    return tuple(
        {
            task: value
            for j, task in enumerate(group.tasks, start=1)
            if (value := spread(matrix.cell(i, j) for matrix in matrices))
        }
        for i in stages
    )


def _sites(group: Group) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for run in group.runs:
        for result in run.results:
            for module, density in (result.module_density or {}).items():
                found.setdefault(kind_of(module), []).append(density)
    sites = {site: mean(values) for site, values in found.items()}
    return {} if all(density == 1.0 for density in sites.values()) else sites


def _gate(group: Group) -> tuple[GateMove, ...]:
    moves: list[GateMove] = []
    for results in zip(*(run.results for run in group.runs), strict=True):
        moved = [
            move for result in results for move in threshold_moves(result.tau_start, result.tau_end)
        ]
        start = spread(move.start for move in moved)
        end = spread(move.end for move in moved)
        ratio = spread(move.end / move.start for move in moved)
        if start and end and ratio:
            density = spread(result.density for result in results)
            warnings = sum(len(result.warnings) for result in results)
            moves.append(GateMove(results[0].task, start, end, ratio, density, warnings))
    return tuple(moves)


def _whole_mean(values: Sequence[float | None]) -> float | None:
    """None if any value is missing, or there is none."""
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None
