"""Adapters from the checkpoints of the official JumpLoRA code (`jumplora_weights.pt`).

Such a file is a pickled dict {module name: {"A", "B", "log_threshold"}}. It holds neither alpha
nor backbone nor order, so these are asked for; and it does not hold the interpolation factor, so
the update is always the hard-gated one that the code merges after training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.draft import (
    Converted,
    Draft,
    Origin,
    file_digest,
    write_converted,
)
from jumplora_adapters.convert.factors import Factors, check_factors, check_readable
from jumplora_adapters.convert.form import Form, delta_of, kept_factors
from jumplora_adapters.convert.names import match_modules
from jumplora_adapters.convert.pickled import load_pickled
from jumplora_adapters.convert.scaling import Scaling
from jumplora_adapters.delta import Delta
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.printable import shown

FACTOR_KEYS = frozenset({"A", "B"})
GATED_KEYS = FACTOR_KEYS | {"log_threshold"}
MAX_MODULES = 4096
MAX_SHOWN = 120


def read_official(path: Path, backbone: Backbone) -> dict[str, Factors]:
    """Target -> factors of one checkpoint, every threshold as tau = exp(log_threshold).

    Either all modules have a threshold or none has. Raises ConvertError.
    """
    state = load_pickled(path)
    if not isinstance(state, Mapping) or not 0 < len(state) <= MAX_MODULES:
        size = f" of {len(state)} entries" if isinstance(state, Mapping) else ""
        raise ConvertError(
            f"{path} holds a {type(state).__name__}{size}, expected 1 to {MAX_MODULES} entries"
            " {module name: {A, B, log_threshold}}"
        )
    for name, entry in state.items():
        keys = frozenset(entry) if isinstance(entry, Mapping) else frozenset()
        if not isinstance(name, str) or keys not in (FACTOR_KEYS, GATED_KEYS):
            raise ConvertError(
                f"{path}: {shown(repr(name), MAX_SHOWN)} holds {_described(entry)},"
                " expected A, B and log_threshold (or A and B of a plain LoRA)"
            )
    targets = match_modules(state, backbone.sites)
    factors = {
        target: check_factors(
            name,
            state[name]["A"],
            state[name]["B"],
            backbone.sites[target].shape,
            _tau(name, state),
        )
        for name, target in targets.items()
    }
    gated = sum(pair.tau is not None for pair in factors.values())
    if 0 < gated < len(factors):
        raise ConvertError(
            f"{path}: {gated} of {len(factors)} modules have a log_threshold: all or none expected"
        )
    return factors


def convert_official(
    checkpoint: Path,
    out: Path,
    draft: Draft,
    backbone: Backbone,
    scaling: Scaling,
    form: Form,
) -> Converted:
    """Write the adapter of one checkpoint to the file `out`. Raises ConvertError."""
    factors = read_official(checkpoint, backbone)
    deltas = {name: delta_of(name, pair, scaling, form) for name, pair in factors.items()}
    taus = {name: pair.tau for name, pair in factors.items() if pair.tau is not None}
    rank = max(pair.rank for pair in factors.values())
    origin = Origin(
        method="jumplora" if taus else "lora",
        rank=rank,
        alpha=scaling.alpha,
        thresholds=group_thresholds(taus) if taus else None,
        notes={
            "converted_from": checkpoint.name,
            "source_sha256": file_digest(checkpoint),
            "scale": scaling.at(rank),
        },
        factors=kept_factors(factors, deltas, form),
        warnings=tuple(_warnings(factors, deltas, backbone)),
    )
    return write_converted(out, draft, backbone, deltas, origin)


def convert_chain(
    checkpoints: Sequence[Path],
    folder: Path,
    drafts: Sequence[Draft],
    backbone: Backbone,
    scaling: Scaling,
    form: Form,
) -> tuple[Converted, ...]:
    """Write <folder>/<task>.safetensors for checkpoints of one continual run in training order.

    Each adapter holds its own delta only and names the earlier ones as its lineage, after the
    ancestors that its draft names already. Raises ConvertError.
    """
    if not checkpoints:
        raise ConvertError("a chain needs at least one checkpoint")
    if len(drafts) != len(checkpoints):
        raise ConvertError(
            f"{len(checkpoints)} checkpoints and {len(drafts)} tasks: give one --task for each,"
            " in training order"
        )
    tasks = [draft.task for draft in drafts]
    if len(set(tasks)) != len(tasks):
        raise ConvertError(f"a chain needs different task ids, got {', '.join(tasks)}")
    for checkpoint in checkpoints:
        read_official(checkpoint, backbone)  # nothing is written where a later one is refused
    converted: list[Converted] = []
    for checkpoint, draft in zip(checkpoints, drafts, strict=True):
        earlier = tuple(adapter.digest for adapter in converted)
        placed = replace(draft, lineage=(*draft.lineage, *earlier))
        out = folder / f"{draft.task}.safetensors"
        converted.append(convert_official(checkpoint, out, placed, backbone, scaling, form))
    return tuple(converted)


def group_thresholds(taus: Mapping[str, float]) -> dict[str, float]:
    """The thresholds by the widest group that explains them: global, block, or module."""
    if len(set(taus.values())) == 1:
        return {"global": next(iter(taus.values()))}
    blocks: dict[str, float] = {}
    for name, tau in taus.items():
        block = ".".join(name.split(".")[:3])  # encoder.block.0
        if blocks.setdefault(block, tau) != tau:
            return dict(taus)
    return blocks


def _warnings(
    factors: Mapping[str, Factors], deltas: Mapping[str, Delta], backbone: Backbone
) -> Iterator[str]:
    """What can be seen of the checkpoint alone, since it has no configuration."""
    # The published code targets q and v; of another choice the file alone tells.
    held = {backbone.sites[target].role for target in factors}
    roles = held if held - {"q", "v"} else {"q", "v"}
    chosen = [site.name for site in backbone.sites.values() if site.role in roles]
    missing = [target for target in chosen if target not in factors]
    if missing:
        yield (
            f"the checkpoint lacks {len(missing)} of the {len(chosen)}"
            f" {' and '.join(sorted(roles))} modules, such as {missing[0]}: they keep the"
            " backbone's weights"
        )
    ranks = sorted({pair.rank for pair in factors.values()})
    if len(ranks) > 1:
        yield f"the ranks go from {ranks[0]} to {ranks[-1]}: alpha is divided by each module's rank"
    # A product of zero keeps nothing at any threshold, so whole means that the gate let all pass.
    whole = [
        name
        for name, pair in factors.items()
        if pair.tau is not None and deltas[name].density == 1.0
    ]
    if whole:
        yield (
            f"the threshold keeps every entry of {len(whole)} of the {len(factors)} modules, such"
            f" as {whole[0]} ({factors[whole[0]].tau:.3g}): the gate closes nothing there"
        )


def _tau(name: str, state: Mapping[str, Mapping[str, object]]) -> float | None:
    """exp of the module's log-threshold, in float32 as the gate compares it."""
    if "log_threshold" not in state[name]:
        return None
    log_threshold = state[name]["log_threshold"]
    if isinstance(log_threshold, int | float) and not isinstance(log_threshold, bool):
        log_threshold = _number(name, log_threshold)
    if not isinstance(log_threshold, Tensor) or log_threshold.numel() != 1:
        raise ConvertError(f"{name}: log_threshold is {_described(log_threshold)}, not a scalar")
    check_readable(f"{name}: log_threshold", log_threshold)
    tau = float(torch.exp(log_threshold.detach().float().reshape(())))
    if not math.isfinite(tau):
        raise ConvertError(
            f"{name}: log_threshold {float(log_threshold)} gives no finite threshold"
        )
    return tau


def _number(name: str, value: float) -> Tensor:
    try:
        return torch.tensor(float(value))
    except OverflowError as error:
        raise ConvertError(f"{name}: log_threshold gives no finite threshold") from error


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return shown("{" + ", ".join(sorted(map(str, value))[:6]) + "}", MAX_SHOWN)
    return f"a {type(value).__name__}"
