"""What an overview says of several tasks together, made of their routes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from jumplora_adapters.continual_record import ContinualRecord
from jumplora_server.api.overview_schemas import ContinualRun, OverlapMap
from jumplora_server.metrics.overlap import OverlapSnapshot
from jumplora_server.residency.entries import Route

MOST_RUNS = 8
MOST_RUN_TASKS = 64
MaySee = Callable[[str], bool]  # whether the caller may see a task
Records = Mapping[str, ContinualRecord]  # by task


def overlap_map(
    compared: Iterable[OverlapSnapshot], routes: Mapping[str, Route], may_see: MaySee
) -> OverlapMap | None:
    """The pairs of tasks that may be seen and serve what was compared; None: there is none."""
    pairs = [p for p in compared if _is_current(p, routes) and all(map(may_see, p.tasks))]
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


def _is_current(pair: OverlapSnapshot, routes: Mapping[str, Route]) -> bool:
    served = zip(map(routes.get, pair.tasks), pair.versions, strict=True)
    return all(route is not None and route.serves(version) for route, version in served)


def record_of_run(route: Route) -> ContinualRecord | None:
    """What the served version notes of its continual run, where one made it and names its task."""
    record = route.continual
    if record is None or route.task not in record.order:
        return None
    # Made with it, once and in its turn: of a thousand tasks together it would take 0.1 s.
    return record if record.run_digest else None


def continual_runs(records: Records, may_see: MaySee) -> Iterator[ContinualRun]:
    """The runs of `records`, those of most tasks first, and at most MOST_RUNS.

    A run shows those of its tasks that may be seen, and at most MOST_RUN_TASKS.
    """
    runs: dict[str, dict[str, ContinualRecord]] = {}
    for task, record in records.items():
        runs.setdefault(record.run_digest, {})[task] = record
    largest = sorted(runs.values(), key=len, reverse=True)[:MOST_RUNS]
    yield from (_run(run, may_see) for run in largest)


def _run(records: Records, may_see: MaySee) -> ContinualRun:
    any_record = next(iter(records.values()))
    tasks = [task for task in any_record.order if may_see(task)][:MOST_RUN_TASKS]
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
