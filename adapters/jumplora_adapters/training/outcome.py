"""What is said about a finished training: the manifest, and whether there is anything to save."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import JsonValue, TypeAdapter

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.delta import Delta, SparseDelta
from jumplora_adapters.errors import GateCollapsed
from jumplora_adapters.folding import folded
from jumplora_adapters.manifest import Manifest
from jumplora_adapters.network import Site
from jumplora_adapters.training.checkpoint import Progress
from jumplora_adapters.training.config import Optimisation, Scope, TrainConfig
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
        if kept == total:
            raise GateCollapsed(
                f"the gate {group} keeps all of {total} entries: nothing was written; choose a "
                "smaller rank (--rank), or train without the gate (--no-gate)"
            )
        if kept == 0:
            raise GateCollapsed(
                f"the gate {group} keeps none of {total} entries: nothing was written; train "
                "longer (--epochs) or at a higher rate (--lr), or without the gate (--no-gate)"
            )


def learned_nothing(optimisation: Optimisation, progress: Progress, dev: Split | None) -> str:
    """What to say where the same answer to every text would be as good on dev; else empty.

    Without dev, or where its rows are whole prompts, nothing can be said.
    """
    if dev is None or not dev.is_labelled or not progress.best_scores:
        return ""
    labels = Counter(folded(example.answer) for example in dev.examples)
    label, count = labels.most_common(1)[0]
    exact, share = progress.best_scores["exact_match"], count / len(dev.examples)
    if exact > share:
        return ""
    if optimisation.max_steps is None:
        longer = f"--epochs {2 * optimisation.epochs}"
    else:
        longer = f"--max-steps {2 * optimisation.max_steps}"
    return (
        f"it learned nothing: of dev's rows {exact:.1%} are right, and {label!r} for each would be "
        f"{share:.1%}. Try --lr {2 * optimisation.learning_rate:g} or {longer}, more rows, and "
        "look whether the instruction and the options fit the labels"
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
