"""Which linear layers a training adapts, which of them share a threshold, and what they allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.bounds import highest_rank
from jumplora_adapters.errors import DataError
from jumplora_adapters.header import MAX_FILE_BYTES
from jumplora_adapters.manifest import MAX_TARGETS
from jumplora_adapters.network import ALL_LINEAR, HEAD, Site
from jumplora_adapters.training.config import Scope, TrainConfig, ValueType

VALUE_BYTES: Mapping[ValueType, int] = {"float32": 4, "float16": 2, "bfloat16": 2}


def targets_of(backbone: Backbone, wanted: Sequence[str]) -> tuple[str, ...]:
    """The layers that any of the `wanted` means, in the order of the network.

    Raises DataError where one of them means no layer, or none is given.
    """
    sites = backbone.sites.values()
    chosen: set[str] = set()
    for target in wanted:
        found = {site.name for site in sites if _means(target, site)}
        if not found:
            raise DataError(
                f"target {target!r} fits no linear layer of {backbone.name}; {_allowed(backbone)}"
            )
        chosen |= found
    if not chosen:
        raise DataError(f"no targets were given; {_allowed(backbone)}")
    return tuple(site.name for site in sites if site.name in chosen)


def check_targets(config: TrainConfig, backbone: Backbone, *, densest: float = 0) -> None:
    """Raises DataError for targets that cannot be trained, or could not be saved afterwards.

    `densest` is the largest density that a finished update is pruned to, 0 without pruning.
    """
    names = targets_of(backbone, config.targets)
    if len(names) > MAX_TARGETS:
        raise DataError(
            f"the targets are {len(names)} layers, and an adapter has at most {MAX_TARGETS}: "
            "choose fewer"
        )
    shapes = [backbone.sites[name].shape for name in names]
    is_gated = config.method == "jumplora"
    if is_gated:
        _check_gated_rank(config.rank, dict(zip(names, shapes, strict=True)))
    elif config.rank > (highest := highest_rank(shapes)):
        raise DataError(f"rank is {config.rank}; with these targets {highest} is the highest")
    entries = sum(d_out * d_in for d_out, d_in in shapes)
    values = config.rank * sum(d_out + d_in for d_out, d_in in shapes)  # a gate's at its start, too
    values = round(densest * entries) or values
    masks = entries // 8 if is_gated or densest else 0
    if (needed := masks + values * VALUE_BYTES[config.value_type]) > MAX_FILE_BYTES:
        raise DataError(
            f"the update would take at least {needed} bytes, and an adapter's file has at most "
            f"{MAX_FILE_BYTES}: choose fewer targets, a smaller rank or density, or 16-bit values"
        )


def _check_gated_rank(rank: int, shapes: Mapping[str, tuple[int, int]]) -> None:
    """A gate starts with as many entries as the factors have: that must be fewer than all."""
    for name, (d_out, d_in) in shapes.items():
        if rank * (d_out + d_in) >= d_out * d_in:
            raise DataError(
                f"rank is {rank}: the factors of {name} have no fewer entries than its "
                f"{d_out} x {d_in} update, so there is nothing to gate; allowed are ranks below "
                f"{d_out * d_in / (d_out + d_in):g}"
            )


def added_roles(backbone: Backbone, wanted: Sequence[str]) -> dict[str, object]:
    """As a hyper-parameter, the roles beyond q and v that `wanted` means; empty without any.

    Earlier programs took a pattern as "encoder.*" for q and v alone. Their runs and checkpoints
    lack this entry, so they are neither continued with more layers nor compared.
    """
    chosen = targets_of(backbone, wanted)
    others = dict.fromkeys(
        backbone.sites[name].role for name in chosen if name not in backbone.targets
    )
    return {"added_roles": list(others)} if others else {}


def group_of(site: Site, scope: Scope) -> str:
    """The threshold group of a layer: "global", or "encoder.block.0" and so on.

    The head is in no block, so it is a group of its own.
    """
    if scope == "global":
        return "global"
    return site.name if site.block is None else f"{site.stack}.block.{site.block}"


def _means(target: str, site: Site) -> bool:
    """All layers but the head; those whose name is, or ends with, it; or those of a pattern."""
    if target == ALL_LINEAR:
        return site.role != HEAD
    return f".{site.name}".endswith(f".{target}") or fnmatchcase(site.name, target)


def _allowed(backbone: Backbone) -> str:
    roles = dict.fromkeys(site.role for site in backbone.sites.values())
    name = next(iter(backbone.sites))
    end = ".".join(name.split(".")[-2:])
    return (
        f"allowed are {', '.join(roles)}, {ALL_LINEAR} (all but {HEAD}), the end of a name as "
        f"{end}, and a pattern of whole names as {name.partition('.')[0]}.*"
    )
