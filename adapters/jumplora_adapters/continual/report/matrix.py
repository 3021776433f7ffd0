"""The accuracy matrix of a group: a row for each task, so that its scores stand in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jumplora_adapters.continual.report.numbers import (
    BRIEFLY,
    SCORED_NOTE,
    per_cent,
    right,
)
from jumplora_adapters.continual.report.spread import Spread
from jumplora_adapters.continual.report.summary import SCORINGS, GroupSummary
from jumplora_adapters.continual.report.table import Table

_BARE = "bare"
_CHAIN_NOTE = (
    f"{_BARE}: the backbone without an adapter; column n: the state after the first n tasks."
)
_ONE_STATE = {
    "joint": f"{_BARE}: the backbone without an adapter; joint: the one training on all tasks.",
    "independent": f"{_BARE}: the backbone without an adapter; alone: the task's own adapter.",
}


def matrix_table(summary: GroupSummary) -> Table:
    """Of both ways of scoring. Tasks are numbered in the order in which they are learned."""
    tasks = summary.group.tasks
    states, note = _states(summary)
    rows = [
        (
            str(position + 1),
            task,
            BRIEFLY[scoring],
            *(
                per_cent(cells[position].get(task), 1, absent="")
                for cells in _columns(summary.cells[scoring], states, len(tasks))
            ),
        )
        for scoring in SCORINGS
        if any(summary.cells[scoring])
        for position, task in enumerate(tasks)
    ]
    return Table(
        f"Accuracy matrix of {summary.group.label}",
        (("", "right"), ("task", "fold"), ("scored", "left"), *right(*states)),
        tuple(rows),
        f"{note} {SCORED_NOTE}",
        keys=3,
    )


def _states(summary: GroupSummary) -> tuple[tuple[str, ...], str]:
    """The names of the columns, and what they mean."""
    method, tasks = summary.group.config.method, summary.group.tasks
    if method == "joint":
        return (_BARE, "joint"), _ONE_STATE[method]
    if method == "independent" and _has_own_scores_only(summary):
        return (_BARE, "alone"), _ONE_STATE[method]
    return (_BARE, *(str(n) for n in range(1, len(tasks) + 1))), _CHAIN_NOTE


def _has_own_scores_only(summary: GroupSummary) -> bool:
    return all(
        set(cells) <= {task}
        for scoring in SCORINGS
        for task, cells in zip(summary.group.tasks, summary.cells[scoring][1:], strict=True)
    )


def _columns(
    cells: Sequence[Mapping[str, Spread]], states: Sequence[str], tasks: int
) -> list[list[Mapping[str, Spread]]]:
    """For each column, by a task's position, the state whose scores stand there."""
    if states[1:] == ("alone",):
        return [[cells[0]] * tasks, list(cells[1:])]
    return [[state] * tasks for state in cells]
