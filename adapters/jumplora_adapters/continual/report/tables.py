"""The tables of a report: which numbers stand where, and what their notes explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jumplora_adapters.continual.report.claims import comparison_table, published_table
from jumplora_adapters.continual.report.comparisons import Comparison
from jumplora_adapters.continual.report.labels import legend
from jumplora_adapters.continual.report.matrix import matrix_table
from jumplora_adapters.continual.report.numbers import (
    ABSENT,
    BRIEFLY,
    SCORED_NOTE,
    number,
    per_cent,
    right,
    score,
    significant,
    size_of,
)
from jumplora_adapters.continual.report.summary import SCORINGS, GroupSummary, Measure
from jumplora_adapters.continual.report.table import Table

_MEASURED: tuple[tuple[str, Measure], ...] = (
    ("BWT", "backward"),
    ("forgetting", "forgetting"),
    ("FWT zero-shot", "zero_shot"),
    ("FWT a_T - scratch", "final_over_scratch"),
    ("FWT a_jj - scratch", "own_over_scratch"),
)
_MOST_COLUMNS = 6  # q and v of three attentions
_WAYS: tuple[tuple[str, Measure], ...] = (
    ("last state for all", "overall"),
    ("own prefix by task id", "own"),
    ("own delta alone", "alone"),
    ("independent adapters", "independent"),
)
_NOTE = (
    "OA: mean over the tasks of the last state's scores (of independent adapters, their own). "
    "BWT: change since a task was learned (Lopez-Paz and Ranzato, 2017). Forgetting: loss "
    "since a task's best score (Chaudhry et al., 2018). FWT zero-shot: gain over the bare "
    "backbone just before a task is learned (Lopez-Paz and Ranzato, 2017). FWT a_T - scratch: "
    "the last state against independent adapters, as JumpLoRA's official code has it; "
    f"FWT a_jj - scratch: each task just after its training. {ABSENT}: not defined for the "
    "method, or no independent run of the same backbone, tasks, seed, gate and settings was "
    "given."
)


def tables(summaries: Sequence[GroupSummary], compared: Sequence[Comparison]) -> tuple[Table, ...]:
    """Every table that has a row."""
    names = legend([summary.group.label for summary in summaries])
    made = [
        _groups(names),
        _scores(summaries, names),
        _costs(summaries, names),
        _ways(summaries, names),
        _label_loss(summaries, names),
        _sites(summaries, names),
        _gate(summaries, names),
        comparison_table(compared, names),
        published_table(summaries, names),
        _warnings(summaries, names),
        *(matrix_table(summary) for summary in summaries),
    ]
    return tuple(table for table in made if table.rows)


def _groups(names: Mapping[str, str]) -> Table:
    """Empty where groups are called by their own labels."""
    return Table(
        "Groups of runs",
        (("", "left"), ("group", "fold")),
        tuple((name, label) for label, name in names.items() if name != label),
        "The tables below name groups by these letters.",
    )


def _scores(summaries: Sequence[GroupSummary], names: Mapping[str, str]) -> Table:
    return Table(
        "Scores",
        (
            ("group", "fold"),
            ("scored", "left"),
            ("seeds", "fold"),
            *right("OA", *(name for name, _ in _MEASURED)),
        ),
        tuple(
            (
                names[summary.group.label],
                BRIEFLY[scoring],
                " ".join(map(str, summary.group.seeds)),
                *(
                    score(summary, scoring, measure)
                    for measure in ("overall", *(measure for _, measure in _MEASURED))
                ),
            )
            for scoring in SCORINGS
            for summary in summaries
            if summary.measures[scoring]["overall"]
        ),
        f"{SCORED_NOTE} {_NOTE}",
        keys=3,
    )


def _costs(summaries: Sequence[GroupSummary], names: Mapping[str, str]) -> Table:
    return Table(
        "Density, overlap and cost",
        (
            ("group", "fold"),
            *right(
                "density",
                "Jaccard",
                "chance",
                "times chance",
                "minutes",
                "CPU minutes",
                "s a step",
                "peak memory",
            ),
        ),
        tuple(
            (
                names[summary.group.label],
                per_cent(summary.costs["density"], 1, suffix=" %"),
                number(summary.costs["jaccard"], 3),
                number(summary.costs["chance"], 3),
                number(summary.costs["times_chance"], 2),
                number(summary.costs["minutes"], 1),
                number(summary.costs["cpu_minutes"], 1),
                number(summary.costs["seconds_per_step"], 3),
                size_of(summary.costs["peak_memory_bytes"]),
            )
            for summary in summaries
        ),
        "Density of a task's own update, mean over the tasks. Jaccard of two tasks' own supports, "
        "mean over the pairs, beside that of independent supports of the same densities: only "
        "their ratio says whether tasks share entries. Minutes are the trainings' wall time, "
        "whatever else ran beside them, and what they had of the processor; memory is the largest "
        "of the tasks, scoring included.",
    )


def _ways(summaries: Sequence[GroupSummary], names: Mapping[str, str]) -> Table:
    return Table(
        "Ways to serve the tasks",
        (("group", "fold"), ("scored", "left"), *right(*(name for name, _ in _WAYS))),
        tuple(
            (
                names[summary.group.label],
                BRIEFLY[scoring],
                *(score(summary, scoring, measure) for _, measure in _WAYS),
            )
            for summary in summaries
            if summary.group.config.method != "independent"
            for scoring in SCORINGS
            if summary.measures[scoring]["overall"]
        ),
        "Mean over the tasks. Last state for all: no task id is needed. Own prefix: the state "
        "right after the task was trained, chosen by task id. Own delta alone: on the bare "
        "backbone, a state that was never trained. Independent adapters: each trained alone, "
        f"with the same gate. {SCORED_NOTE}",
        keys=2,
    )


def _label_loss(summaries: Sequence[GroupSummary], names: Mapping[str, str]) -> Table:
    return Table(
        "Lost knowledge, or lost labels",
        (("group", "fold"), *right("BWT free", "BWT among the options", "share that vanishes")),
        tuple(
            (
                names[summary.group.label],
                score(summary, "exact_match", "backward"),
                score(summary, "best_option", "backward"),
                ABSENT if summary.label_loss is None else f"{100 * summary.label_loss:z.0f} %",
            )
            for summary in summaries
            if all(summary.measures[scoring]["backward"] for scoring in SCORINGS)
        ),
        "The share of the loss under free generation that is gone when the answer is chosen among "
        "the task's options: a model that knows the class but no longer spells its label.",
    )


def _sites(summaries: Sequence[GroupSummary], names: Mapping[str, str]) -> Table:
    """A row a group; a row a kind of module where there are more of these than q and v have."""
    gated = [summary for summary in summaries if summary.sites]
    sites = list(dict.fromkeys(site for summary in gated for site in summary.sites))

    def cell(summary: GroupSummary, site: str) -> str:
        return f"{100 * summary.sites[site]:.1f} %" if site in summary.sites else ABSENT

    title, note = "Density by kind of module", "Mean over blocks, tasks and seeds."
    if len(sites) <= _MOST_COLUMNS:
        rows = tuple((names[s.group.label], *(cell(s, site) for site in sites)) for s in gated)
        return Table(title, (("group", "fold"), *right(*sites)), rows, note)
    rows = tuple((site, *(cell(s, site) for s in gated)) for site in sites)
    groups = (names[s.group.label] for s in gated)
    return Table(title, (("kind of module", "left"), *right(*groups)), rows, note)


def _gate(summaries: Sequence[GroupSummary], names: Mapping[str, str]) -> Table:
    return Table(
        "How far the thresholds moved",
        (
            ("group", "fold"),
            ("task", "fold"),
            *right("tau when set", "tau at the end", "moved", "density", "warnings"),
        ),
        tuple(
            (
                names[summary.group.label],
                move.task,
                significant(move.start),
                significant(move.end),
                f"x {number(move.ratio, 4)}",
                per_cent(move.density, 1, suffix=" %"),
                str(move.warnings) if move.warnings else "",
            )
            for summary in summaries
            for move in summary.gate
        ),
        "Over the seeds and the threshold groups.",
        keys=2,
    )


def _warnings(summaries: Sequence[GroupSummary], names: Mapping[str, str]) -> Table:
    return Table(
        "Warnings of the trainings",
        (("group", "fold"), ("seed", "right"), ("task", "fold"), ("warning", "fold")),
        tuple(
            (names[summary.group.label], str(warning.seed), warning.task, warning.text)
            for summary in summaries
            for warning in summary.warnings
        ),
        keys=3,
    )
