"""Adapters from dense deltas: a safetensors file {module or module.weight: W - W0}."""

from __future__ import annotations

from pathlib import Path

import torch

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.draft import (
    Converted,
    Draft,
    Origin,
    file_digest,
    write_converted,
)
from jumplora_adapters.convert.factors import check_readable
from jumplora_adapters.convert.names import match_module
from jumplora_adapters.convert.prune import prune
from jumplora_adapters.convert.tensor_file import tensors_in
from jumplora_adapters.delta import SparseDelta
from jumplora_adapters.errors import ConvertError, FormatError


def convert_dense(
    file: Path,
    out: Path,
    draft: Draft,
    backbone: Backbone,
    *,
    dtype: torch.dtype = torch.float32,
    density: float | None = None,
) -> Converted:
    """Write the masked adapter of the deltas in `file`; zeros are not stored.

    With `density` each module keeps that share of its largest entries. Raises ConvertError.
    """
    deltas: dict[str, SparseDelta] = {}
    for name, dense in tensors_in(file):
        target = match_module(name, backbone.sites)
        if target in deltas:
            raise ConvertError(f"{file}: two tensors mean {target!r}, the second is {name!r}")
        check_readable(name, dense)
        if tuple(dense.shape) != (shape := backbone.sites[target].shape):
            raise ConvertError(f"{name} is {tuple(dense.shape)}, expected {shape}")
        kept = dense.float()
        if not bool(torch.isfinite(kept).all()):
            raise ConvertError(f"{name} holds NaN or infinity")
        try:
            deltas[target] = SparseDelta.from_dense(
                kept if density is None else prune(kept, density), dtype
            )
        except FormatError as error:
            raise ConvertError(f"{name}: {error}") from error
    origin = Origin(
        method="dense" if density is None else "magnitude",
        notes={
            "converted_from": file.name,
            "source_sha256": file_digest(file),
            "pruned_to_density": density,
        },
    )
    return write_converted(out, draft, backbone, deltas, origin)
