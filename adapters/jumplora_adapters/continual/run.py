"""A continual run from its first training to its last number; a killed run can be continued."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jumplora_adapters.atomic_file import replace_file
from jumplora_adapters.continual.config import ContinualConfig
from jumplora_adapters.continual.environment import changed_environment, describe_environment
from jumplora_adapters.continual.finish import score_alone, support_overlaps, write_merged
from jumplora_adapters.continual.learn import Learner
from jumplora_adapters.continual.memory import check_memory, estimate, share_of_memory
from jumplora_adapters.continual.prepare import Prepared, prepare
from jumplora_adapters.continual.scorebook import BARE, ScoreBook, after, alone, numbers
from jumplora_adapters.continual.state import Scorer
from jumplora_adapters.continual.watch import Watch
from jumplora_adapters.errors import DataError
from jumplora_adapters.format import Adapter
from jumplora_adapters.training.adapt import load_adapted
from jumplora_adapters.training.work_folder import work_folder


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that is through, and where it lies."""

    folder: Path
    run: str
    versions: tuple[str, ...]  # of the stages, in their order


def run(config: ContinualConfig, watch: Watch) -> Finished:
    """Train all tasks of the order, score every state, write the adapters and all numbers.

    Raises whatever `prepare` and `check_memory` raise before anything is trained, DataError where
    the folder holds another run, and GateCollapsed where a training diverged.
    """
    prepared = prepare(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    check_memory(estimate(prepared), share_of_memory(prepared), watch)
    _warn_of_cuts(prepared, watch)
    is_main = prepared.processes.is_main
    with work_folder(config.out) if is_main else nullcontext():
        run_id = _begin(prepared, watch)
        prepared.processes.wait()  # until the folder is there
        book = ScoreBook(config.out / "scores.jsonl", prepared.processes)
        _score_bare(prepared, book, watch)
        adapters = _learn_all(prepared, run_id, book, watch)
        if config.is_chained:
            score_alone(prepared, adapters, book, watch)
        if is_main:
            _write(config.out / "matrix.json", _matrix(prepared, book))
            if config.is_chained:
                write_merged(prepared, run_id, adapters, book)
            # Last of all: its presence says that the run is finished.
            _write(config.out / "overlap.json", {"pairs": support_overlaps(prepared, adapters)})
    prepared.processes.part()
    return Finished(config.out, run_id, tuple(adapter.digest for adapter in adapters))


def _warn_of_cuts(prepared: Prepared, watch: Watch) -> None:
    for task in prepared.tasks:
        for split in (task.train, task.scored):
            if split.cut:
                watch.warned(f"{split.path}: {split.cut} whole prompts were too long, ends cut off")


def _begin(prepared: Prepared, watch: Watch) -> str:
    """Put down what the run is, or see that the folder holds this very one; its id."""
    path = prepared.config.out / "config.json"
    ours = prepared.description()
    environment = describe_environment(prepared.device, prepared.processes)
    if path.is_file():
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
            different = _differences(theirs, ours)
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path} does not describe a run ({error})") from error
        if different:
            raise DataError(
                f"{prepared.config.out} holds another run ({', '.join(different)}): "
                "give the settings it began with, or another folder"
            )
        if changes := changed_environment(prepared.config.out / "environment.json", environment):
            watch.warned(f"the run began on another machine, so bits may differ: {changes}")
    elif prepared.processes.is_main:
        _write(prepared.config.out / "environment.json", environment)
        _write(path, ours)
    return str(ours["run"])


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """ "rank 2, now 3" for every setting; the run's id follows from the others."""
    found = []
    for name in sorted({*ours, *theirs} - {"run"}):
        then, now = theirs.get(name), ours.get(name)
        if isinstance(then, dict) and isinstance(now, dict):
            found += _differences(then, now)
        elif then != now:
            found.append(f"{name} {then}, now {now}")
    return found


def _score_bare(prepared: Prepared, book: ScoreBook, watch: Watch) -> None:
    """The backbone without any update on every task: a_0j."""
    if all(task.name in book.row(BARE) for task in prepared.tasks):
        return
    adapted = load_adapted(prepared.backbone, (), prepared.stages[0].train, prepared.device)
    scorer = Scorer(prepared, book, watch)
    for task in prepared.tasks:
        scorer.score(BARE, task, adapted, {})


def _learn_all(
    prepared: Prepared, run_id: str, book: ScoreBook, watch: Watch
) -> tuple[Adapter, ...]:
    learner = Learner(prepared, run_id, book, watch)
    adapters: list[Adapter] = []
    for stage in prepared.stages:
        watch.began(stage.task, stage.position, len(prepared.stages))
        adapters.append(learner.done(stage, adapters) or learner.learn(stage, adapters))
        if prepared.processes.is_main:
            _write(prepared.config.out / "matrix.json", _matrix(prepared, book))
    return tuple(adapters)


def _matrix(prepared: Prepared, book: ScoreBook) -> dict[str, object]:
    """matrix.json: every cell that is known."""
    stages = [numbers(book.row(after(stage.position))) for stage in prepared.stages]
    return {
        "tasks": list(prepared.order.tasks),
        "rows": {task.name: len(task.scored.examples) for task in prepared.tasks},
        "bare": numbers(book.row(BARE)),
        "after": [stage for stage in stages if stage],
        "alone": {
            task: cells[task]
            for task in prepared.order.tasks
            if (cells := numbers(book.row(alone(task))))
        },
    }


def _write(path: Path, value: Mapping[str, object] | Sequence[object]) -> None:
    replace_file(path, f"{json.dumps(value, indent=1, ensure_ascii=False)}\n".encode())
