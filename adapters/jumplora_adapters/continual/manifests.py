"""What the adapters of a run say of themselves: one task's own, and the merged model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from jumplora_adapters.continual.config import JOINT_TASK
from jumplora_adapters.continual.metrics import ScoreMatrix, backward_transfer
from jumplora_adapters.continual.prepare import Prepared, Stage
from jumplora_adapters.continual.scorebook import BARE, ScoreBook, after
from jumplora_adapters.delta import Delta
from jumplora_adapters.manifest import Manifest
from jumplora_adapters.training.checkpoint import Progress
from jumplora_adapters.training.outcome import manifest_of

_DIGITS = 6


def stage_manifest(
    prepared: Prepared,
    run: str,
    stage: Stage,
    deltas: Mapping[str, Delta],
    *,
    lineage: Sequence[str],
    progress: Progress,
    thresholds: Mapping[str, float],
    book: ScoreBook,
    canary_accuracy: float | None,
) -> Manifest:
    """The manifest of one stage's adapter, with the run's accuracies as they stand after it."""
    config = prepared.config
    own = [task for task in prepared.tasks if stage.task in (task.name, JOINT_TASK)]
    splits = {f"{task.name}/train": task.train for task in own}
    splits |= {f"{task.name}/{config.split}": task.scored for task in own}
    row = book.row(after(stage.position))
    scores = {
        f"{config.split}_exact_match": _mean([row[task.name].exact_match for task in own]),
    }
    chosen = [row[task.name].best_option for task in own]
    known = [value for value in chosen if value is not None]
    if len(known) == len(own):
        scores[f"{config.split}_best_option"] = _mean(known)
    if canary_accuracy is not None:
        scores["canary_exact_match"] = canary_accuracy
    manifest = manifest_of(
        stage.train,
        prepared.backbone,
        deltas,
        lineage=lineage,
        splits=splits,
        steps=stage.steps,
        progress=progress,
        thresholds=thresholds,
        scores=scores,
        max_new_tokens=config.lengths.target,
    )
    training = {**manifest.training, "continual": continual_facts(prepared, run, stage, book)}
    if (density := config.density(stage.position)) is not None:
        training["pruned_to"] = density
    return manifest.model_copy(update={"training": training, "canaries": stage.canaries})


def continual_facts(
    prepared: Prepared, run: str, stage: Stage, book: ScoreBook
) -> dict[str, JsonValue]:
    """`training.continual`: the run, and what its state right after `stage` scored so far."""
    config = prepared.config
    learned = prepared.order.tasks[: stage.position]
    if config.method == "joint":
        learned = prepared.order.tasks
    elif config.method == "independent":
        learned = (stage.task,)
    row = book.row(after(stage.position))
    when_learned = {
        task: book.row(after(stage.position if config.method == "joint" else position))[task]
        for position, task in enumerate(prepared.order.tasks, start=1)
        if task in learned
    }
    return {
        "run": run,
        "order": list(prepared.order.tasks),
        "position": stage.position,
        "method": config.method,
        "gate": "none" if config.gate is None else "jumprelu",
        "split": config.split,
        "accuracy": {task: _rounded(row[task].exact_match) for task in learned},
        "accuracy_when_learned": {
            task: _rounded(cell.exact_match) for task, cell in when_learned.items()
        },
        "backward_transfer": _transfer(prepared, learned, book),
    }


def _transfer(prepared: Prepared, learned: Sequence[str], book: ScoreBook) -> float | None:
    if prepared.config.method in ("joint", "independent"):
        return None
    rows = [book.row(state) for state in (BARE, *map(after, range(1, len(learned) + 1)))]
    bare, *stages = [{task: cell.exact_match for task, cell in row.items()} for row in rows]
    value = backward_transfer(ScoreMatrix(tuple(learned), bare, tuple(stages)))
    return None if value is None else _rounded(value)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rounded(value: float) -> float:
    return round(value, _DIGITS)


def merged_manifest(
    prepared: Prepared,
    run: str,
    deltas: Mapping[str, Delta],
    lineage: Sequence[str],
    book: ScoreBook,
) -> Manifest:
    """The manifest of the final model: what the published evaluation uses for all tasks."""
    config, last = prepared.config, prepared.stages[-1]
    row = book.row(after(last.position))
    overall = _mean([row[task].exact_match for task in prepared.order.tasks])
    return Manifest(
        kind="masked",
        task=config.merged_task,
        backbone=prepared.backbone.ref(),
        targets=tuple(deltas),
        method="merged",
        lineage=tuple(lineage),
        training={"continual": continual_facts(prepared, run, last, book)},
        scores={f"{config.split}_exact_match": _rounded(overall)},
        generation={"max_new_tokens": config.lengths.target},
        created=config.created or "",
    )
