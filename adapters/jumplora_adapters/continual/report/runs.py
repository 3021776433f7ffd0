"""Run folders of `jumplora continual run`, read and checked.

It owns what a finished folder must hold and how far an unfinished one is; it knows no measure and
no other run. Every fault is a DataError that names the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from jumplora_adapters.continual.methods import Method
from jumplora_adapters.continual.metrics import ScoreMatrix
from jumplora_adapters.errors import DataError, FormatError
from jumplora_adapters.json_text import parse_json
from jumplora_adapters.manifest import TASK_ID

FORMAT = 1
CONFIG, ENVIRONMENT, MATRIX, OVERLAP = (
    "config.json",
    "environment.json",
    "matrix.json",
    "overlap.json",
)
_NO_SETTINGS = frozenset(
    {"format", "run", "seed", "canaries", "merged_task", "created", "processes"}
)

Gate = Literal["jumprelu", "none"]
Scoring = Literal["exact_match", "best_option"]
"""Free greedy generation, or the option of the highest log-probability."""

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
TaskName = Annotated[str, Field(pattern=f"^{TASK_ID}$")]
Positive = Annotated[float, Field(gt=0)]
_Form = TypeVar("_Form")


@dataclass(frozen=True, slots=True)
class Order:
    """The tasks in the order they are learned."""

    name: str
    tasks: Annotated[tuple[TaskName, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class BackboneName:
    """`weights` is a digest of all of them; the fingerprint is of version 1, of q and v alone."""

    name: str
    fingerprint: str
    weights: str | None = None

    @property
    def identity(self) -> tuple[str, str | None]:
        """Two backbones are the same if this is, whatever they are called."""
        return self.fingerprint, self.weights


@dataclass(frozen=True, slots=True)
class Prune:
    """A dense update cut by magnitude to these densities, one a task."""

    density: Annotated[tuple[Share, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class RunConfig:
    """config.json as far as the report knows it; Run.settings also has keys that are not here."""

    run: str
    method: Method
    gate: Gate
    order: Order
    seed: int
    backbone: BackboneName
    split: str
    hyper_parameters: Mapping[str, JsonValue]
    prune: Prune | None = None


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a run ran; times and memory of different ones do not compare."""

    device: str
    cpu: str | None = None
    cores: int | None = None
    threads: int | None = None
    processes: int | None = None
    torch: str | None = None


@dataclass(frozen=True, slots=True)
class CellScores:
    """One task's scores in one state; None where the task has no options."""

    exact_match: Share
    best_option: Share | None = None


Row = Mapping[str, CellScores]


@dataclass(frozen=True, slots=True)
class Matrix:
    """matrix.json: `after[i]` is the state after the (i + 1)-th task, `alone` own deltas alone."""

    tasks: tuple[str, ...]
    bare: Row
    after: tuple[Row, ...]
    rows: Mapping[str, Count] = field(default_factory=dict)
    alone: Row = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What training one task took and gave; `density` of its own update."""

    position: Annotated[int, Field(ge=1)]
    task: str
    steps: Count
    seconds: Amount
    cpu_seconds: Amount
    density: Share | None = None
    module_density: Mapping[str, Share] | None = None
    density_by_step: Sequence[tuple[int, Share]] | None = None
    tau_start: Mapping[str, Positive] | None = None
    tau_end: Mapping[str, Positive] | None = None
    tau_by_step: Sequence[tuple[int, Mapping[str, Positive]]] | None = None
    seconds_per_step: Amount | None = None
    peak_memory_bytes: Count | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """Two tasks' own supports: Jaccard index, and that of independent ones of their densities."""

    first: str
    second: str
    jaccard: Share
    chance: Share


@dataclass(frozen=True, slots=True)
class Overlap:
    """overlap.json; without pairs where the updates are dense."""

    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run.

    `settings` is what decides its numbers, of all of config.json: without the seed, and without
    what tells where, when and under which names it ran.
    """

    folder: Path
    config: RunConfig
    settings: Mapping[str, JsonValue]
    environment: Environment
    matrix: Matrix
    results: tuple[TaskResult, ...]
    pairs: tuple[Pair, ...]

    def scores(self, scoring: Scoring) -> ScoreMatrix:
        """The matrix under one way of scoring."""
        return ScoreMatrix(
            tasks=self.matrix.tasks,
            bare=scores_of(self.matrix.bare, scoring),
            after=tuple(scores_of(row, scoring) for row in self.matrix.after),
        )


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run that has not ended, or not yet compared its supports."""

    folder: Path
    done: int
    stages: int

    def __str__(self) -> str:
        return f"{self.folder}: {self.done} of {self.stages} stages are done"


def scores_of(row: Row, scoring: Scoring) -> dict[str, float | None]:
    """Task -> score of one state."""
    return {task: getattr(scores, scoring) for task, scores in row.items()}


def read_runs(folders: Sequence[Path]) -> tuple[tuple[Run, ...], tuple[Unfinished, ...]]:
    """Each folder once, in the order given. Raises DataError, also if no run is finished."""
    once: dict[Path, Path] = {}
    for folder in folders:
        once.setdefault(folder.resolve(), folder)
    read = [read_run(folder) for folder in once.values()]
    runs = tuple(run for run in read if isinstance(run, Run))
    unfinished = tuple(run for run in read if isinstance(run, Unfinished))
    if not runs:
        raise DataError(
            "no finished run was given: " + "; ".join(str(run) for run in unfinished)
            if unfinished
            else "no run was given"
        )
    return runs, unfinished


def read_run(folder: Path) -> Run | Unfinished:
    """Raises DataError for a folder without a run, of another format, or damaged."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder of a continual run")
    if not (folder / CONFIG).is_file():
        raise DataError(f"{folder} is not a folder of a continual run: it has no {CONFIG}")
    config, settings = _config(folder / CONFIG)
    stages = 1 if config.method == "joint" else len(config.order.tasks)
    if not (folder / OVERLAP).is_file():
        has_scores = (folder / MATRIX).is_file()
        done = len(_read(folder / MATRIX, Matrix).after) if has_scores else 0
        return Unfinished(folder, done, stages)
    run = Run(
        folder=folder,
        config=config,
        settings=settings,
        environment=_read(folder / ENVIRONMENT, Environment),
        matrix=_read(folder / MATRIX, Matrix),
        results=_results(folder, stages),
        pairs=_read(folder / OVERLAP, Overlap).pairs,
    )
    _check_matrix(run, stages)
    return run


def _config(path: Path) -> tuple[RunConfig, dict[str, JsonValue]]:
    content = _parse(path, _text(path))
    if not isinstance(content, dict) or "format" not in content:
        raise DataError(f'{path} is not of a continual run: it has no "format"')
    if content["format"] != FORMAT:
        raise DataError(f"{path}: format {content['format']!r} given; only {FORMAT} can be read")
    settings = {key: value for key, value in content.items() if key not in _NO_SETTINGS}
    return _read(path, RunConfig), settings


def _results(folder: Path, stages: int) -> tuple[TaskResult, ...]:
    files = (folder / "tasks").glob("*/result.json")
    results = sorted((_read(file, TaskResult) for file in files), key=lambda r: r.position)
    positions = [result.position for result in results]
    if positions != list(range(1, stages + 1)):
        found = ", ".join(map(str, positions)) or "none"
        raise DataError(
            f"{folder / 'tasks'} must hold a result.json for each position from 1 to {stages}; "
            f"it has {found}"
        )
    return tuple(results)


def _check_matrix(run: Run, stages: int) -> None:
    """A finished run has scored every task that a stage had learned."""
    path, tasks = run.folder / MATRIX, run.config.order.tasks
    if run.matrix.tasks != tasks:
        raise DataError(
            f"{path}: tasks {', '.join(run.matrix.tasks)} given; the order of {CONFIG} is "
            f"{', '.join(tasks)}"
        )
    if len(run.matrix.after) != stages:
        raise DataError(
            f"{path}: {len(run.matrix.after)} stages given; a finished run has {stages}"
        )
    for i, row in enumerate(run.matrix.after, start=1):
        missing = [task for task in _learned(run.config, i) if task not in row]
        if missing:
            raise DataError(f"{path}: stage {i} has no score of {', '.join(missing)}")


def _learned(config: RunConfig, stage: int) -> tuple[str, ...]:
    match config.method:
        case "joint":
            return config.order.tasks
        case "independent":
            return config.order.tasks[stage - 1 : stage]
        case _:
            return config.order.tasks[:stage]


def _read(path: Path, form: type[_Form]) -> _Form:
    text, key = _text(path), cast("Any", form)
    _parse(path, text)
    try:
        read: _Form = _adapter(key).validate_json(text, strict=True)
    except ValidationError as error:
        first, *more = error.errors()
        where = ".".join(map(str, first["loc"])) or "the document"
        others = f" (and {len(more)} more)" if more else ""
        raise DataError(f"{path}: {where}: {first['msg']}{others}") from error
    return read


@cache
def _adapter(form: Any) -> TypeAdapter[Any]:
    """Making one takes milliseconds, and a run of fifteen tasks has eighteen files."""
    return TypeAdapter(form)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error  # str() of an OSError has the path again
        raise DataError(f"{path} cannot be read: {reason}") from error


def _parse(path: Path, text: str) -> Any:
    """The value, read as strictly as any JSON from outside: no key twice, finite numbers."""
    try:
        return parse_json(text, code="format")
    except FormatError as error:
        raise DataError(f"{path}: {error}") from error
