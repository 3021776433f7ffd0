"""The JumpReLU gate on a matrix: a hard threshold with a straight-through threshold gradient.

Owns the gate's arithmetic and its learned threshold; knows neither layers nor schedules.
Method: Dragomir et al., arXiv 2604.16171; the summed estimator: Rajamanoharan et al.,
arXiv 2407.14435.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

Estimator = Literal["mean", "sum"]

BANDWIDTH = 0.001
INITIAL_LOG_TAU = -4.7


def kept(z: Tensor, tau: Tensor) -> Tensor:
    """Bool tensor of z's shape: which entries pass. Strict, so an entry equal to tau does not."""
    return z.abs() > tau


def log_tau_gradient(
    z: Tensor, gradient: Tensor, tau: Tensor, bandwidth: float, estimator: Estimator
) -> Tensor:
    """d loss / d log_tau, a scalar, given `gradient` = d loss / d G(z) of z's shape.

    tau * -(tau / bandwidth) * reduce(rect((|z| - tau) / bandwidth) * sign(z) * gradient), with
    rect = 1 on the open interval (-1/2, 1/2). The first tau is the chain rule's: what stands behind
    it is d loss / d tau, and the learned parameter is its logarithm. `mean` is the published form,
    `sum` the usual one (the derivative itself, up to the width of the band).
    """
    is_near = (z.abs() - tau).abs() < bandwidth / 2
    terms = torch.where(is_near, z.sign() * gradient, 0.0)
    reduced = terms.mean() if estimator == "mean" else terms.sum()
    return -(tau * tau / bandwidth) * reduced


class _JumpGate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        log_tau: Tensor,
        bandwidth: float,
        estimator: Estimator,
    ) -> Tensor:
        ctx.save_for_backward(z, log_tau)
        ctx.settings = (bandwidth, estimator)
        return torch.where(kept(z, log_tau.exp()), z, 0.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        z, log_tau = ctx.saved_tensors
        bandwidth, estimator = ctx.settings
        tau = log_tau.exp()
        through = torch.where(kept(z, tau), gradient, 0.0)
        return through, log_tau_gradient(z, gradient, tau, bandwidth, estimator), None, None


def jump_gate(
    z: Tensor, log_tau: Tensor, bandwidth: float = BANDWIDTH, estimator: Estimator = "mean"
) -> Tensor:
    """G(z) = z where |z| > exp(log_tau), else 0, differentiable in z and log_tau.

    The slow reference of layer.py's fused form: autograd keeps z itself.
    """
    apply = cast(Callable[..., Tensor], _JumpGate.apply)
    return apply(z, log_tau, bandwidth, estimator)


class Gate:
    """One threshold and the modules' common phase: `fraction` is the f of the interpolation.

    log_tau is a float32 scalar parameter; bfloat16 would round its small updates away.
    """

    def __init__(
        self, *, bandwidth: float, estimator: Estimator, device: torch.device | str = "cpu"
    ) -> None:
        self.log_tau = nn.Parameter(
            torch.tensor(INITIAL_LOG_TAU, dtype=torch.float32, device=device)
        )
        self.bandwidth = bandwidth
        self.estimator: Estimator = estimator
        self.fraction = 0.0

    @property
    def tau(self) -> float:
        return float(self.log_tau.detach().exp())

    def set_tau(self, tau: float) -> None:
        """Smallest float32 log_tau whose exponential reaches `tau`, so that tau itself is cut."""
        with torch.no_grad():
            wanted = torch.tensor(tau, dtype=torch.float32, device=self.log_tau.device)
            log_tau = wanted.log()
            for _ in range(16):  # log and exp round by an ulp or two, no more
                if bool(log_tau.exp() >= wanted):
                    break
                log_tau = torch.nextafter(log_tau, log_tau.new_tensor(math.inf))
            self.log_tau.copy_(log_tau)
