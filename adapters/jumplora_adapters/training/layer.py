"""The adapted linear layer: a frozen base weight plus a scaled, possibly gated, product B A.

    Z = B A      Z_f = f G(Z) + (1 - f) Z      y = x W0^T + s x Z_f^T

While f = 0 the update is low rank and runs as two skinny products. From then on it is not, and the
effective weight W0 + s Z_f is built once per step and layer, used, and built again in backward, so
that no layer keeps a dense intermediate between the passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from jumplora_adapters.training.gate import Estimator, Gate, kept, log_tau_gradient


def interpolated(z: Tensor, tau: Tensor, fraction: float) -> Tensor:
    """Z_f: entries that pass stay, the others are scaled by 1 - fraction. Shape of z."""
    return torch.where(kept(z, tau), z, z * (1.0 - fraction))


class _GatedLinear(torch.autograd.Function):
    """x [..., d_in] -> y [..., d_out]; products in x's dtype, Z and its gradients in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base: Tensor,
        A: Tensor,
        B: Tensor,
        log_tau: Tensor,
        scale: float,
        fraction: float,
        bandwidth: float,
        estimator: Estimator,
    ) -> Tensor:
        ctx.save_for_backward(x, base, A, B, log_tau)
        ctx.settings = (scale, fraction, bandwidth, estimator)
        weight = base + scale * interpolated(B @ A, log_tau.exp(), fraction)
        return functional.linear(x, weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, base, A, B, log_tau = ctx.saved_tensors
        scale, fraction, bandwidth, estimator = ctx.settings
        tau = log_tau.exp()
        z = B @ A  # [d_out, d_in]
        for_x = None
        if ctx.needs_input_grad[0]:
            weight = base + scale * interpolated(z, tau, fraction)
            for_x = gradient @ weight.to(gradient.dtype)
        rows = gradient.reshape(-1, gradient.shape[-1])  # [rows, d_out]
        for_mixed = scale * (rows.T @ x.reshape(-1, x.shape[-1])).float()  # d loss / d Z_f
        for_log_tau = log_tau_gradient(z, fraction * for_mixed, tau, bandwidth, estimator)
        for_z = interpolated_gradient(z, for_mixed, tau, fraction)
        return for_x, None, B.T @ for_z, for_z @ A.T, for_log_tau, None, None, None, None


def interpolated_gradient(z: Tensor, gradient: Tensor, tau: Tensor, fraction: float) -> Tensor:
    """d loss / d Z from d loss / d Z_f: masked pass through the gate, plain pass beside it."""
    return torch.where(kept(z, tau), gradient, gradient * (1.0 - fraction))


class AdaptedLinear(nn.Module):
    """Stands in for a bias-free nn.Linear. `gate` None is plain LoRA.

    A [rank, d_in] and B [d_out, rank] are float32; `base` [d_out, d_in] is the frozen weight
    with any ancestors already added. `dropout` is that of a plain update's input in training, as
    PEFT's `lora_dropout`; a gated layer has none. While `served` is set, it is used as the whole
    weight instead: that is how the rounded, hard-gated adapter is evaluated in place.
    """

    weight: None = None  # T5 turns the input of wo into its weight's type, which is float32 here

    def __init__(
        self,
        base: Tensor,
        *,
        rank: int,
        scale: float,
        gate: Gate | None,
        seed: torch.Generator,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        d_out, d_in = base.shape
        A = torch.empty(rank, d_in)
        nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=seed)
        self.register_buffer("base", base.detach(), persistent=False)
        self.base: Tensor
        self.A = nn.Parameter(A.to(base.device))
        self.B = nn.Parameter(torch.zeros(d_out, rank, device=base.device))
        self.scale = scale
        self.gate = gate
        self.dropout = dropout
        self.served: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:  # [..., d_in] -> [..., d_out]
        if self.served is not None:
            return functional.linear(x, self.served.to(x.dtype))
        gate = self.gate
        if gate is None or gate.fraction == 0.0:
            seen = functional.dropout(x, self.dropout, self.training)
            narrow = functional.linear(seen, self.A.to(x.dtype))  # [..., rank]
            update = functional.linear(narrow, (self.scale * self.B).to(x.dtype))
            return functional.linear(x, self.base.to(x.dtype)) + update
        apply = cast(Callable[..., Tensor], _GatedLinear.apply)
        return apply(
            x,
            self.base,
            self.A,
            self.B,
            gate.log_tau,
            self.scale,
            gate.fraction,
            gate.bandwidth,
            gate.estimator,
        )

    @torch.no_grad()
    def mixed(self) -> Tensor:
        """Z_f, float32 [d_out, d_in], without the scale: what the layer computes with now."""
        if self.gate is None:
            return self.product()
        return interpolated(self.product(), self.gate.log_tau.exp(), self.gate.fraction)

    @torch.no_grad()
    def add_gradient(self, for_mixed: Tensor) -> None:
        """Add `for_mixed` = d penalty / d Z_f [d_out, d_in] to the gradients of A and B.

        For terms of the loss that look at the update itself: by hand, so that no dense matrix
        waits in an autograd graph for its turn. The threshold gets no gradient of such a term: the
        official code makes Z_f for it by a plain comparison, which has none.
        """
        for_z, gate = for_mixed, self.gate
        if gate is not None:
            for_z = interpolated_gradient(
                self.product(), for_mixed, gate.log_tau.exp(), gate.fraction
            )
        _add(self.A, self.B.T @ for_z)
        _add(self.B, for_z @ self.A.T)

    @torch.no_grad()
    def product(self) -> Tensor:
        """Z = B A, float32 [d_out, d_in], without the scale: what the gate looks at."""
        return self.B @ self.A


def _add(parameter: nn.Parameter, gradient: Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
