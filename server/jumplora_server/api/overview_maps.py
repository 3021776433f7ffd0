"""What an overview says of several tasks together, made of their statuses alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from jumplora_adapters.continual_record import KEY, ContinualRecord, continual_record
from jumplora_server.api.overview_schemas import ContinualRun, OverlapMap
from jumplora_server.metrics.overlap import OverlapSnapshot
from jumplora_server.residency.status import TaskStatus

MOST_RUNS = 8
MOST_RUN_TASKS = 64
Records = Mapping[str, ContinualRecord]  # by task


def overlap_map(
    compared: Iterable[OverlapSnapshot], served: Mapping[str, str | None]
) -> OverlapMap | None:
    """The pairs of which both tasks are among the `served` ones, with the versions that were
    compared; None where there is no such pair."""
    pairs = [
        pair
        for pair in compared
        if all(served.get(t) == v for t, v in zip(pair.tasks, pair.versions, strict=True))
    ]
    if not pairs:
        return None
    tasks = sorted({task for pair in pairs for task in pair.tasks})
    place = {task: index for index, task in enumerate(tasks)}
    jaccard: list[list[float | None]] = [[None] * len(tasks) for _ in tasks]
    chance: list[list[float | None]] = [[None] * len(tasks) for _ in tasks]
    for pair in pairs:
        first, second = (place[task] for task in pair.tasks)
        jaccard[first][second] = jaccard[second][first] = pair.jaccard
        chance[first][second] = chance[second][first] = pair.chance
    return OverlapMap(tasks=tasks, jaccard=jaccard, chance=chance)


def record_of_run(status: TaskStatus) -> ContinualRecord | None:
    """What the served version notes of its continual run, if one made it and gave its task a
    place."""
    if status.version is None or status.manifest is None or KEY not in status.manifest.training:
        return None
    record = continual_record(status.manifest.training)
    return record if record is not None and status.task_id in record.order else None


def continual_runs(records: Records, visible: Iterable[str] | None = None) -> list[ContinualRun]:
    """The runs of `records`, at most MOST_RUNS, those of most tasks first.

    Of a run's tasks only those of `visible` are shown (None: all), at most MOST_RUN_TASKS.
    """
    runs: dict[tuple[object, ...], dict[str, ContinualRecord]] = {}
    for task, record in records.items():
        name = (record.run, record.method, record.gate, record.split, record.order)
        runs.setdefault(name, {})[task] = record
    largest = sorted(runs.values(), key=len, reverse=True)[:MOST_RUNS]
    shown = None if visible is None else frozenset(visible)
    return [_run(run, shown) for run in largest]


def _run(records: Records, visible: frozenset[str] | None) -> ContinualRun:
    any_record = next(iter(records.values()))
    order = [task for task in any_record.order if visible is None or task in visible]
    tasks = order[:MOST_RUN_TASKS]
    last = next((task for task in reversed(tasks) if task in records), None)
    return ContinualRun(
        run=any_record.run,
        method=any_record.method,
        gate=any_record.gate,
        split=any_record.split,
        tasks=tasks,
        accuracy=[_row(tasks, index, records) for index in range(len(tasks))],
        backward_transfer=None if last is None else records[last].backward_transfer,
    )


def _row(tasks: Sequence[str], index: int, records: Records) -> list[float | None]:
    """The state of the run once the task at `index` was learned."""
    record = records.get(tasks[index])
    known: Mapping[str, float] = {} if record is None else record.accuracy
    return [known.get(task) if at <= index else None for at, task in enumerate(tasks)]
