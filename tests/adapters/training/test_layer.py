"""The fused layer against the same formula written with autograd, and its memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from jumplora_adapters.training.gate import Estimator, Gate
from jumplora_adapters.training.layer import AdaptedLinear

D_OUT, D_IN, RANK, SCALE = 12, 10, 3, 4.0


def _layer(gate: Gate | None, seed: int = 0) -> AdaptedLinear:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(D_OUT, D_IN, generator=generator)
    layer = AdaptedLinear(base, rank=RANK, scale=SCALE, gate=gate, seed=generator)
    with torch.no_grad():
        layer.B.normal_(generator=generator)
    return layer


def _gate(fraction: float, estimator: Estimator = "sum") -> Gate:
    gate = Gate(bandwidth=0.5, estimator=estimator)
    gate.set_tau(0.4)
    gate.fraction = fraction
    return gate


class _GateOfTau(torch.autograd.Function):
    """The paper's gate as a function of tau itself, entry by entry and with nothing of gate.py.

    What the logarithm adds to the derivative is left to autograd, so a wrong chain rule shows.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, tau: Tensor, bandwidth: float, estimator: str) -> Tensor:
        ctx.save_for_backward(z, tau)
        ctx.settings = (bandwidth, estimator)
        return z * (z.abs() > tau)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        z, tau = ctx.saved_tensors
        bandwidth, estimator = ctx.settings
        sum_of_terms = 0.0
        for entry, slope in zip(z.flatten().tolist(), gradient.flatten().tolist(), strict=True):
            if abs((abs(entry) - float(tau)) / bandwidth) < 0.5:
                sum_of_terms += math.copysign(1.0, entry) * slope
        count = z.numel() if estimator == "mean" else 1
        for_tau = -float(tau) / bandwidth * sum_of_terms / count
        return gradient * (z.abs() > tau), tau.new_tensor(for_tau), None, None


def _by_autograd(layer: AdaptedLinear, gate: Gate, x: Tensor) -> Tensor:
    z = layer.B @ layer.A
    apply = cast(Callable[..., Tensor], _GateOfTau.apply)
    gated = apply(z, gate.log_tau.exp(), gate.bandwidth, gate.estimator)
    mixed = gate.fraction * gated + (1 - gate.fraction) * z
    return x @ layer.base.T + SCALE * (x @ mixed.T)


@pytest.mark.parametrize("estimator", ["mean", "sum"])
@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_values_and_gradients_equal_the_formula(fraction: float, estimator: Estimator) -> None:
    gate = _gate(fraction, estimator)
    layer = _layer(gate)
    x = torch.randn(2, 5, D_IN, requires_grad=True)
    weights = torch.randn(2, 5, D_OUT)
    learned = [x, layer.A, layer.B, gate.log_tau]
    y, expected = layer(x), _by_autograd(layer, gate, x)
    torch.testing.assert_close(y, expected)
    ours = torch.autograd.grad((y * weights).sum(), learned, allow_unused=True)
    theirs = torch.autograd.grad((expected * weights).sum(), learned)
    for mine, other in zip(ours[:3], theirs[:3], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    if fraction == 0.0:
        assert ours[3] is None  # a dense update does not move the threshold
    else:
        torch.testing.assert_close(ours[3], theirs[3], rtol=1e-4, atol=1e-4)
        assert float(theirs[3]) != 0.0


def test_without_a_gate_it_is_lora() -> None:
    layer = _layer(None)
    x = torch.randn(4, D_IN)
    expected = x @ (layer.base + SCALE * layer.B @ layer.A).T
    torch.testing.assert_close(layer(x), expected)


def test_gate_comes_before_scale() -> None:
    gate = _gate(1.0)
    layer = _layer(gate)
    with torch.no_grad():
        layer.A.zero_()
        layer.B.zero_()
        layer.A[0, 0], layer.B[0, 0] = 1.0, 0.3  # Z[0, 0] = 0.3 < tau < 4 * 0.3
    x = torch.randn(4, D_IN)
    torch.testing.assert_close(layer(x), x @ layer.base.T)


def test_a_fresh_layer_changes_nothing() -> None:
    base = torch.randn(D_OUT, D_IN)
    layer = AdaptedLinear(base, rank=RANK, scale=SCALE, gate=None, seed=torch.Generator())
    assert float(layer.A.detach().abs().max()) <= 1 / math.sqrt(D_IN)  # kaiming, a = sqrt(5)
    x = torch.randn(4, D_IN)
    assert torch.equal(layer(x), x @ base.T)


def test_served_weight_replaces_everything() -> None:
    layer = _layer(_gate(0.5))
    layer.served = torch.randn(D_OUT, D_IN)
    x = torch.randn(4, D_IN)
    assert torch.equal(layer(x), x @ layer.served.T)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_no_dense_intermediate_is_kept_for_backward(fraction: float) -> None:
    layer = _layer(_gate(fraction))
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(torch.randn(4, D_IN))
    base = layer.base.untyped_storage().data_ptr()
    dense = [t for t in saved if t.numel() >= D_OUT * D_IN]
    assert all(t.untyped_storage().data_ptr() == base for t in dense)


def test_bfloat16_activations_keep_float32_factors() -> None:
    layer = _layer(_gate(1.0))
    x = torch.randn(4, D_IN, dtype=torch.bfloat16, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert layer.A.grad is not None
    assert layer.A.grad.dtype == torch.float32


def test_dropout_is_that_of_pefts_lora() -> None:
    base = torch.nn.Linear(D_IN, D_OUT, bias=False)
    layer = AdaptedLinear(
        base.weight, rank=RANK, scale=SCALE, gate=None, dropout=0.5,
        seed=torch.Generator().manual_seed(0),
    )  # fmt: skip
    torch.nn.init.normal_(layer.B, generator=torch.Generator().manual_seed(1))
    config = LoraConfig(
        r=RANK, lora_alpha=int(SCALE * RANK), lora_dropout=0.5, target_modules=["0"]
    )
    theirs = get_peft_model(torch.nn.Sequential(base), config)
    factors = {"lora_A": layer.A, "lora_B": layer.B}
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(factors[name.split(".")[-3]])
    x = torch.randn(64, D_IN, generator=torch.Generator().manual_seed(2))
    for training in (True, False):
        outputs = []
        for module in (layer, theirs):
            module.train(training)
            torch.manual_seed(3)
            outputs.append(module(x))
        torch.testing.assert_close(outputs[0], outputs[1])
    assert not torch.allclose(layer.train()(x), layer.eval()(x))
