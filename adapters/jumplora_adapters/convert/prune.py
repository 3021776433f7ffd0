"""Magnitude pruning of a finished dense delta: the control for a learned gate."""

from __future__ import annotations

import torch
from torch import Tensor

from jumplora_adapters.errors import ConvertError


def prune(dense: Tensor, density: float) -> Tensor:
    """Keep the round(density * size) largest |entries| of `dense` [d_out, d_in], zero the rest.

    Entries of equal magnitude are kept in row-major order, so the result is the same everywhere.
    """
    if not 0.0 < density <= 1.0:
        raise ConvertError(f"the density must be above 0 and at most 1, got {density}")
    kept = round(density * dense.numel())
    if kept == dense.numel():
        return dense.clone()
    magnitude = dense.abs().flatten()
    order = torch.sort(magnitude, descending=True, stable=True).indices[:kept]
    pruned = torch.zeros_like(dense)
    pruned.view(-1)[order] = dense.reshape(-1)[order]
    return pruned
