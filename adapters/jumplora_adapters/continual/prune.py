"""The control for a learned gate: a finished dense update cut to a density by magnitude."""

from __future__ import annotations

import torch

from jumplora_adapters.delta import Delta, SparseDelta
from jumplora_adapters.training.adapt import AdaptedBackbone
from jumplora_adapters.training.threshold import kth_magnitude


@torch.no_grad()
def pruned(adapted: AdaptedBackbone, density: float, dtype: torch.dtype) -> dict[str, Delta]:
    """The `density` share of largest entries over all modules together, as a global gate's are.

    An entry as large as the largest one that is cut is cut too.
    """
    layers = adapted.layers.values()
    total = sum(layer.base.numel() for layer in layers)
    cut = total - round(density * total)
    scale = {layer.scale for layer in layers}
    assert len(scale) == 1  # so that magnitudes of Z compare as those of the update do
    tau = kth_magnitude([layer.product for layer in layers], cut) if cut else 0.0
    return {
        name: SparseDelta.from_factors(
            layer.A.detach().cpu(), layer.B.detach().cpu(), tau=tau, scale=layer.scale, dtype=dtype
        )
        for name, layer in adapted.layers.items()
    }
