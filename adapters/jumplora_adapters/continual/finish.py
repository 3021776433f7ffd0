"""What is found out once all tasks are learned: updates alone, their overlap, the merged model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from jumplora_adapters.continual.manifests import merged_manifest
from jumplora_adapters.continual.prepare import Prepared
from jumplora_adapters.continual.scorebook import ScoreBook, alone
from jumplora_adapters.continual.state import Scorer
from jumplora_adapters.continual.watch import Watch
from jumplora_adapters.delta import SparseDelta
from jumplora_adapters.format import Adapter, write_adapter
from jumplora_adapters.overlap import overlaps, supports_of
from jumplora_adapters.training.adapt import load_adapted


def score_alone(
    prepared: Prepared, adapters: Sequence[Adapter], book: ScoreBook, watch: Watch
) -> None:
    """Every task's own update on the bare backbone, without its ancestors: a state never trained.

    It is what a server without lineages would answer with.
    """
    if all(book.row(alone(task.name)) for task in prepared.tasks):
        return
    adapted = load_adapted(prepared.backbone, (), prepared.stages[0].train, prepared.device)
    scorer = Scorer(prepared, book, watch)
    for task, adapter in zip(prepared.tasks, adapters, strict=True):
        scorer.score(alone(task.name), task, adapted, adapter.deltas)


def support_overlaps(
    prepared: Prepared, adapters: Sequence[Adapter]
) -> list[dict[str, str | float]]:
    """Jaccard beside chance of every pair of tasks' own updates; none where updates are dense."""
    if any(adapter.manifest.kind != "masked" for adapter in adapters):
        return []
    supports = {
        stage.task: supports_of(adapter.deltas)
        for stage, adapter in zip(prepared.stages, adapters, strict=True)
    }
    return [
        {
            "first": pair.first,
            "second": pair.second,
            "first_density": pair.first_density,
            "second_density": pair.second_density,
            "jaccard": pair.jaccard,
            "chance": pair.chance,
        }
        for pair in overlaps(supports)
    ]


def write_merged(prepared: Prepared, run: str, adapters: Sequence[Adapter], book: ScoreBook) -> str:
    """The final model as an adapter: all tasks' updates as its lineage, and no other update.

    So it shares every byte with the tasks' adapters wherever those are served. It has no prompt:
    clients send whole prompts, of any task. Returns the digest.
    """
    name, shape = next(iter(prepared.backbone.targets.items()))
    nothing = {name: SparseDelta.from_dense(torch.zeros(shape), torch.float16)}
    lineage = [adapter.digest for adapter in adapters]
    path = prepared.config.out / "adapters" / f"{prepared.config.merged_task}.safetensors"
    return write_adapter(path, merged_manifest(prepared, run, nothing, lineage, book), nothing)
