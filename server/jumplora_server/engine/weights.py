"""A backbone's parameters as tensors by name, and the dtypes that they are computed in."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jumplora_adapters.architecture import Architecture, parameter_shapes, read_architecture
from jumplora_adapters.checkpoint import Place, open_checkpoint, read_json_object


class CheckpointError(Exception):
    """The folder is not a T5 checkpoint that this engine can serve."""


@dataclass(frozen=True, slots=True)
class T5Config(Architecture):
    """A T5, T5 v1.1 / Flan-T5 or mT5 backbone, and where its decoder starts and ends."""

    decoder_start_token_id: int
    eos_token_id: int


def read_config(folder: Path) -> T5Config:
    """Read `config.json`.

    Raises:
        BackboneError: the network is not one that can be computed.
        CheckpointError: special tokens outside of the vocabulary.
    """
    architecture = read_architecture(folder)
    path = folder / "config.json"
    raw = read_json_object(path)
    eos = raw.get("eos_token_id", 1)
    if type(eos) is not int:
        raise CheckpointError(f"{path} has eos_token_id {eos!r}; one integer is allowed")
    start: Any = raw.get("decoder_start_token_id") or 0
    config = T5Config(
        **{field.name: getattr(architecture, field.name) for field in fields(architecture)},
        decoder_start_token_id=start,
        eos_token_id=eos,
    )
    for name in ("eos_token_id", "decoder_start_token_id"):
        token = getattr(config, name)
        if type(token) is not int or not 0 <= token < config.vocab_size:
            raise CheckpointError(
                f"{path} has {name} {token}; allowed are tokens 0 to {config.vocab_size - 1}"
            )
    return config


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
