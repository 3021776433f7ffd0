"""Which linear layers a training adapts, and which of them have one threshold in common."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.errors import DataError
from jumplora_adapters.network import ALL_LINEAR, HEAD, Site
from jumplora_adapters.training.config import Scope


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
