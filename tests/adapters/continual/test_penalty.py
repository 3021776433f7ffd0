"""The penalties' hand-written gradients against autograd over the published formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jumplora_adapters.continual.penalty import EllaPenalty, OrthogonalPenalty
from jumplora_adapters.training.gate import Gate, jump_gate
from jumplora_adapters.training.layer import AdaptedLinear

D_OUT, D_IN, RANK, SCALE = 6, 5, 2, 4.0


def _layers(gate: Gate | None) -> dict[str, AdaptedLinear]:
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for name in ("a.q", "b.v"):
        base = torch.randn(D_OUT, D_IN, generator=generator)
        layer = AdaptedLinear(base, rank=RANK, scale=SCALE, gate=gate, seed=generator)
        with torch.no_grad():
            layer.B.normal_(generator=generator)
        layers[name] = layer
    return layers


def _past(rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(rows, D_IN, generator=generator) for name in ("a.q", "b.v")}


def _ella(layers: dict[str, AdaptedLinear], past: dict[str, Tensor], gate: Gate | None) -> Tensor:
    terms = []
    for name, layer in layers.items():
        z = layer.B @ layer.A
        if gate is not None:
            gated = jump_gate(z, gate.log_tau, gate.bandwidth, gate.estimator)
            z = gate.fraction * gated + (1 - gate.fraction) * z
        terms.append(((SCALE * z * past[name]) ** 2).sum())
    return 3.0 * sum(terms, torch.zeros(())) / len(terms)


@pytest.mark.parametrize("fraction", [None, 0.0, 0.25, 1.0])
def test_ella_is_the_mean_square_of_the_overlap(fraction: float | None) -> None:
    gate = None
    if fraction is not None:
        gate = Gate(bandwidth=0.5, estimator="sum")
        gate.set_tau(0.3)
        gate.fraction = fraction
    layers, past = _layers(gate), _past(D_OUT)
    learned = [p for layer in layers.values() for p in (layer.A, layer.B)]
    learned += [] if gate is None else [gate.log_tau]
    expected = _ella(layers, past, gate)
    expected.backward()  # type: ignore[no-untyped-call]
    theirs = [p.grad for p in learned]
    for parameter in learned:
        parameter.grad = None
    value = EllaPenalty(layers, past, 3.0).add()
    assert value == pytest.approx(float(expected.detach()), rel=1e-5)
    for parameter, other in zip(learned, theirs, strict=True):
        assert parameter.grad is not None
        assert other is not None
        torch.testing.assert_close(parameter.grad, other, rtol=1e-4, atol=1e-4)
    assert value > 0


def test_a_penalty_adds_to_the_gradients_that_are_there() -> None:
    layers, past = _layers(None), _past(D_OUT)
    EllaPenalty(layers, past, 3.0).add()
    alone = layers["a.q"].A.grad
    assert alone is not None
    layers["a.q"].A.grad = torch.ones_like(alone)
    EllaPenalty(layers, past, 3.0).add()
    torch.testing.assert_close(layers["a.q"].A.grad, alone + 1)


def test_orthogonality_is_the_sum_of_absolute_products() -> None:
    layers, past = _layers(None), _past(3 * RANK)
    expected = 0.5 * sum(
        ((layer.A @ past[name].T).abs().sum() for name, layer in layers.items()), torch.zeros(())
    )
    expected.backward()  # type: ignore[no-untyped-call]
    theirs = [layer.A.grad for layer in layers.values()]
    for layer in layers.values():
        layer.A.grad = None
    assert OrthogonalPenalty(layers, past, 0.5).add() == pytest.approx(float(expected.detach()))
    for layer, other in zip(layers.values(), theirs, strict=True):
        torch.testing.assert_close(layer.A.grad, other)
        assert layer.B.grad is None
