"""What ELLA and O-LoRA add to the loss: terms that keep a task away from the earlier ones.

Both look at the parameters alone, so their gradients are written out and added after backward, one
module at a time; autograd would keep a dense matrix of every module. Sources: ELLA, arXiv
2601.02232; O-LoRA, arXiv 2310.14152, in the form of its published code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from jumplora_adapters.delta import LowRankDelta
from jumplora_adapters.errors import DataError
from jumplora_adapters.format import Adapter
from jumplora_adapters.training.adapt import AdaptedBackbone
from jumplora_adapters.training.layer import AdaptedLinear


class EllaPenalty:
    """strength * mean over the layers of || (s Z_f) * W_past ||_F^2, the product element-wise.

    Its gradient reaches A and B, not the threshold, as in JumpLoRA's official code. W_past is the
    sum of the earlier updates, kept on the training device: as many float32 numbers as the targets
    have entries.
    """

    def __init__(
        self, layers: Mapping[str, AdaptedLinear], past: Mapping[str, Tensor], strength: float
    ) -> None:
        self._layers = layers
        self._past = past  # [d_out, d_in] by layer
        self._strength = strength

    @torch.no_grad()
    def add(self) -> float:
        """See Penalty.add."""
        total = torch.zeros(())
        for name, layer in self._layers.items():
            weighted = layer.mixed() * (layer.scale * self._past[name])
            total = total.to(weighted.device) + weighted.square().sum()
            share = 2 * self._strength * layer.scale / len(self._layers)
            layer.add_gradient(share * weighted * self._past[name])
        return self._strength * float(total) / len(self._layers)


class OrthogonalPenalty:
    """strength * sum over layers and earlier tasks of the entries of | A A_past^T |.

    The paper squares the entries; its published code takes their absolute values, and so does this.
    """

    def __init__(
        self, layers: Mapping[str, AdaptedLinear], past: Mapping[str, Tensor], strength: float
    ) -> None:
        self._layers = layers
        self._past = past  # the earlier tasks' A, one below the other [tasks * r, d_in], by layer
        self._strength = strength

    @torch.no_grad()
    def add(self) -> float:
        """See Penalty.add."""
        total = torch.zeros(())
        for name, layer in self._layers.items():
            products = layer.A @ self._past[name].T  # [r, tasks * r]
            total = total.to(products.device) + products.abs().sum()
            gradient = self._strength * products.sign() @ self._past[name]
            layer.A.grad = gradient if layer.A.grad is None else layer.A.grad + gradient
        return self._strength * float(total)


def ella_penalty(
    adapted: AdaptedBackbone, ancestors: Sequence[Adapter], strength: float
) -> EllaPenalty | None:
    """None for the first task, which has no past."""
    if not ancestors:
        return None
    past = {
        name: torch.zeros(layer.base.shape, device=adapted.device)
        for name, layer in adapted.layers.items()
    }
    for adapter in ancestors:
        for name, delta in adapter.deltas.items():
            if name in past:
                past[name] += delta.to_dense().to(adapted.device)
    return EllaPenalty(adapted.layers, past, strength)


def orthogonal_penalty(
    adapted: AdaptedBackbone, ancestors: Sequence[Adapter], strength: float
) -> OrthogonalPenalty | None:
    """None for the first task. Raises DataError where an ancestor has lost its factors."""
    if not ancestors:
        return None
    past = {
        name: torch.cat([_factor_a(adapter, name) for adapter in ancestors]).to(adapted.device)
        for name in adapted.layers
    }
    return OrthogonalPenalty(adapted.layers, past, strength)


def _factor_a(adapter: Adapter, name: str) -> Tensor:
    """float32 [r, d_in]"""
    delta = adapter.deltas.get(name)
    if isinstance(delta, LowRankDelta):
        return delta.A.float()
    if name in adapter.factors:
        return adapter.factors[name][0].float()
    raise DataError(
        f"O-LoRA looks at the earlier tasks' factors, and {adapter.manifest.task} has none "
        f"of {name}"
    )
