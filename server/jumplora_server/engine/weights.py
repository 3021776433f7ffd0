"""A backbone's parameters as tensors by name, and the dtypes that they are computed in."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from jumplora_adapters.architecture import Architecture, parameter_shapes
from jumplora_adapters.checkpoint import Place, open_checkpoint


class CheckpointError(Exception):
    """The folder is not a T5 checkpoint that this engine can serve."""


def read_weights(folder: Path, architecture: Architecture) -> dict[str, Tensor]:
    """Read every parameter in its stored dtype; tied ones are the same tensor.

    Raises BackboneError.
    """
    checkpoint = open_checkpoint(folder, parameter_shapes(architecture))
    weights: dict[Place, Tensor] = {}
    for name, tensor in checkpoint.tensors():
        weights.setdefault(checkpoint.places[name], tensor)
    return {name: weights[place] for name, place in checkpoint.places.items()}


def to_dtype(name: str) -> torch.dtype:
    """The arithmetic dtype of a `dtype` setting: int8 computes its rest in float32."""
    return {"float32": torch.float32, "int8": torch.float32, "bfloat16": torch.bfloat16}[name]
