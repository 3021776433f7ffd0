"""Adapter files taken apart, changed, and put together again without any check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from factories import write_random_adapter
from jumplora_adapters.backbone import Backbone
from jumplora_bench.reliability.parts import Parts, empty_tensors, frame, with_tensors

__all__ = ["Parts", "empty_tensors", "frame", "set_value", "sound_adapter", "with_tensors"]


def sound_adapter(folder: Path, backbone: Backbone) -> bytes:
    """A masked adapter of a toy backbone in bfloat16, with factors for q: what is then spoilt."""
    q, _ = backbone.targets
    path = write_random_adapter(
        folder,
        backbone,
        density=0.5,
        dtype=torch.bfloat16,
        rank=2,
        factors={q: (torch.ones(2, 5), torch.ones(3, 2))},
    )
    return path.read_bytes()


def set_value(name: str, index: Sequence[int], value: float) -> Callable[[dict[str, Tensor]], None]:
    """A change that writes one number into one tensor."""

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name][tuple(index)] = torch.tensor(value, dtype=tensors[name].dtype)

    return change
