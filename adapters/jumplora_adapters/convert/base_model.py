"""Whether the base model that a foreign adapter names is the backbone it is converted for.

What a name says for sure is little: a folder of this machine can be compared by its weights, a hub
id or a folder of another machine by its name alone.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.convert.config_values import said
from jumplora_adapters.errors import BackboneError, ConvertError

# What rounding to bfloat16 changes, with room; and the smallest numbers of float16.
ROUNDING = 2.0**-7
SMALLEST = 2.0**-24
_ROWS_AT_ONCE = 4096

_OWNED = re.compile(r"[\w.-]+/[\w.-]+")
_CACHED = re.compile(r"(?:^|[/\\])models--([^/\\]+)[/\\]snapshots[/\\]")


def compare_base_model(named: str | None, backbone: Backbone, *, look: bool = True) -> str | None:
    """A warning where `named` may be another model than the backbone, else None.

    With `look` a folder of that name is read; without, names alone are compared. Raises
    ConvertError where it is a folder here whose weights are not the backbone's.
    """
    if named is None:
        return None
    theirs = _backbone_at(named) if look else None
    if theirs is None:
        if _same_name(named, backbone.name):
            return None
        return (
            f"base_model_name_or_path is {said(named)}, the backbone is {said(backbone.name)}: the"
            " answers are right only if both are the same weights"
        )
    if theirs.fingerprint == backbone.fingerprint:
        return None
    if _same_weights(theirs, backbone):
        return (
            f"base_model_name_or_path is {said(named)}, whose weights are the backbone's up to"
            " rounding: its dtype, tokenizer or configuration differs"
        )
    raise ConvertError(
        f"the adapter was trained on {said(named)} (base_model_name_or_path), and the weights there"
        f" are not those of the backbone {said(str(backbone.path))}. Give --backbone that folder;"
        " if the name is out of date, set it to null in adapter_config.json"
    )


def _backbone_at(named: str) -> Backbone | None:
    try:
        return read_backbone(Path(named)) if Path(named).is_dir() else None
    except (OSError, ValueError, BackboneError):  # a name too long, a folder of something else
        return None


def _same_weights(theirs: Backbone, ours: Backbone) -> bool:
    shapes = [{n: p.shape for n, p in it.checkpoint.places.items()} for it in (theirs, ours)]
    if shapes[0] != shapes[1]:
        return False
    names = list(shapes[0])
    pairs = zip(theirs.checkpoint.tensors(names), ours.checkpoint.tensors(names), strict=True)
    return all(are_close(left, right) for (_, left), (_, right) in pairs)


def are_close(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have one shape, and values that are equal up to 16 bits' rounding."""
    if one.shape != other.shape or not (one.is_floating_point() and other.is_floating_point()):
        return False
    # A few rows at a time, since a float32 copy of each could be gigabytes.
    pairs = zip(torch.split(one, _ROWS_AT_ONCE), torch.split(other, _ROWS_AT_ONCE), strict=True)
    return all(
        torch.allclose(left.float(), right.float(), rtol=ROUNDING, atol=SMALLEST)
        for left, right in pairs
    )


def _same_name(named: str, name: str) -> bool:
    """Whether two names end alike, and do not name different owners of the hub."""
    cached = _CACHED.search(named)
    if cached:
        named = cached[1].replace("--", "/")
    left, right = (text.replace("\\", "/").rstrip("/").lower() for text in (named, name))
    if _OWNED.fullmatch(left) and _OWNED.fullmatch(right):
        return left == right
    return left.rpartition("/")[2] == right.rpartition("/")[2]
