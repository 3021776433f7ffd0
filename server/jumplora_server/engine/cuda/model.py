"""Which class computes which family on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from jumplora_adapters.architecture import Architecture, Family
from jumplora_server.engine.cuda.plan import Kernels
from jumplora_server.engine.cuda.t5 import CudaT5
from jumplora_server.engine.models.model import Model
from jumplora_server.engine.weights import StoredTensors


class MakeModel(Protocol):
    """A model's constructor: `target` is how many positions a row of the target cache has."""

    def __call__(
        self,
        config: Architecture,
        weights: StoredTensors,
        *,
        dtype: str,
        device: torch.device,
        kernels: Kernels,
        target: int,
    ) -> Model: ...


CUDA_MODELS: Mapping[Family, MakeModel] = {"t5": CudaT5}
