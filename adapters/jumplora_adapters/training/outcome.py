"""What is said about a finished training: the manifest, and whether there is anything to save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue, TypeAdapter

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.delta import Delta, SparseDelta
from jumplora_adapters.errors import GateCollapsed
from jumplora_adapters.manifest import Manifest
from jumplora_adapters.network import Site
from jumplora_adapters.training.checkpoint import Progress
from jumplora_adapters.training.config import Scope, TrainConfig
from jumplora_adapters.training.data import Split
from jumplora_adapters.training.targets import group_of

_DIGITS = 6


def check_not_collapsed(
    deltas: Mapping[str, Delta], sites: Mapping[str, Site], scope: Scope
) -> None:
    """Raises GateCollapsed if a threshold, over all modules that it is for, keeps nothing or all.

    One module of several under a threshold may well be empty or full.
    """
    groups: dict[str, list[Delta]] = {}
    for name, delta in deltas.items():
        groups.setdefault(group_of(sites[name], scope), []).append(delta)
    for group, members in groups.items():
        kept = sum(delta.nnz for delta in members)
        total = sum(delta.shape[0] * delta.shape[1] for delta in members)
        if kept in (0, total):
            raise GateCollapsed(
                f"the gate {group} keeps {'all' if kept else 'none'} of {total} entries: nothing "
                "was written"
            )


def manifest_of(
    config: TrainConfig,
    backbone: Backbone,
    deltas: Mapping[str, Delta],
    *,
    lineage: Sequence[str],
    splits: Mapping[str, Split | None],
    steps: int,
    progress: Progress,
    thresholds: Mapping[str, float],
    scores: Mapping[str, float],
    max_new_tokens: int,
) -> Manifest:
    """Without density and mask digest, which write_adapter fills in.

    No wall-clock value enters, so that the same training always gives the same digest.
    """
    sparse = {n: delta for n, delta in deltas.items() if isinstance(delta, SparseDelta)}
    training: dict[str, object] = {
        "hyper_parameters": config.hyper_parameters(),
        "data": {
            name: {"sha256": split.sha256, "rows": len(split.examples)}
            for name, split in splits.items()
            if split is not None
        },
        "steps": steps,
        "selected_step": progress.best_step,
        "dev_scores": [[step, _rounded(score)] for step, score in progress.evaluations],
    }
    if sparse:
        training |= {
            "tau_start": progress.initial_thresholds,
            "tau_end": dict(thresholds),
            "density_by_step": [[step, _rounded(d)] for step, d in progress.densities],
        }
    return Manifest(
        kind="masked" if sparse else "lowrank",
        task=config.task,
        backbone=backbone.ref(),
        targets=tuple(deltas),
        rank=config.rank,
        alpha=config.alpha,
        thresholds=dict(thresholds) if sparse else None,
        method=config.method,
        lineage=tuple(lineage),
        training=_json(training),
        scores={name: _rounded(value) for name, value in scores.items()},
        prompt=config.prompt,
        generation={"max_new_tokens": max_new_tokens},
        created=config.created or "",
    )


def _json(value: dict[str, object]) -> dict[str, JsonValue]:
    return TypeAdapter(dict[str, JsonValue]).validate_python(value)


def _rounded(value: float) -> float:
    return round(value, _DIGITS)
