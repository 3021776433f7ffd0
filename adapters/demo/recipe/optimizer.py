"""Muon for the matrices that write to the residual stream, AdamW for the rest.

q and k stay with AdamW: T5 does not scale its scores, and orthogonalised steps there made the
attention saturate. See Jordan et al. (2024) for Muon, Liu et al. (2025) for the 0.2 sqrt factor
that gives its steps AdamW's size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

MUON_OWNERS = frozenset({"v", "o", "wi_0", "wi_1", "wo"})
MUON_RATE = 1.2e-3
MUON_DECAY = 0.1
MOMENTUM = 0.95
ADAM_RATES = {"q": 4e-4, "k": 1e-3, "shared": 5e-4, "relative_attention_bias": 2e-3}
OTHER_ADAM_RATE = 1e-3
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalised(update: Tensor) -> Tensor:
    """[n, rows, columns] with the singular values of each matrix brought near 1."""
    is_tall = update.shape[-2] > update.shape[-1]
    x = update.mT if is_tall else update
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x.mT if is_tall else x).float()
    return result


class Optimizer:
    """Steps float32 parameters by name; `rate` in step() multiplies every learning rate."""

    def __init__(self, named: Sequence[tuple[str, Tensor]]) -> None:
        self._groups: dict[tuple[int, ...], list[Tensor]] = {}
        adam_groups: dict[float, list[Tensor]] = {}
        for name, parameter in named:
            owner = name.split(".")[-2]
            if owner in MUON_OWNERS:
                self._groups.setdefault(tuple(parameter.shape), []).append(parameter)
            else:
                rate = ADAM_RATES.get(owner, OTHER_ADAM_RATE)
                adam_groups.setdefault(rate, []).append(parameter)
        self._momenta = {
            size: torch.zeros(len(group), *size) for size, group in self._groups.items()
        }
        self._adam = torch.optim.AdamW(
            [{"params": group, "lr": rate, "peak": rate} for rate, group in adam_groups.items()],
            betas=(0.9, 0.95),
            weight_decay=0.0,
            fused=True,
        )

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for group in self._adam.param_groups:
            group["lr"] = group["peak"] * rate
        self._adam.step()
        for size, parameters in self._groups.items():
            gradient = torch.stack([p.grad for p in parameters if p.grad is not None])
            momentum = self._momenta[size].lerp_(gradient, 1 - MOMENTUM)
            update = orthogonalised(gradient.lerp(momentum, MOMENTUM))
            scale = 0.2 * max(size) ** 0.5
            for parameter, change in zip(parameters, update, strict=True):
                parameter.mul_(1 - MUON_RATE * rate * MUON_DECAY)
                parameter.add_(change, alpha=-MUON_RATE * rate * scale)

    def state(self) -> dict[str, object]:
        momenta = [self._momenta[size] for size in self._groups]
        return {"adam": self._adam.state_dict(), "momenta": momenta}

    def load(self, state: dict[str, object]) -> None:
        peaks = [group["peak"] for group in self._adam.param_groups]
        self._adam.load_state_dict(state["adam"])  # type: ignore[arg-type]
        for group, peak in zip(self._adam.param_groups, peaks, strict=True):
            group["peak"] = peak  # rates are this code's, not the checkpoint's
        for size, momentum in zip(self._groups, state["momenta"], strict=True):  # type: ignore[call-overload]
            self._momenta[size].copy_(momentum)
