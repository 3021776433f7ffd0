"""The penalties' hand-written gradients: autograd over the published formulas, closed forms.

On a small model a whole step of ELLA with the gate is compared with formulas that start from the
gradients of an ordinary model with the same weights.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import T5ForConditionalGeneration

from factories import tiny_t5
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.continual.config import ContinualConfig
from jumplora_adapters.continual.penalty import EllaPenalty, OrthogonalPenalty
from jumplora_adapters.training.adapt import AdaptedBackbone, load_adapted
from jumplora_adapters.training.config import GateConfig
from jumplora_adapters.training.gate import Gate
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
        if gate is not None:  # a plain comparison, as in the official code: no gradient to tau
            gated = z * (z.abs() > gate.log_tau.exp()).to(z.dtype)
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
    if gate is not None:
        assert gate.log_tau.grad is None


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


# -- one step of ELLA with the gate on a small model

BANDWIDTH, FRACTION, STRENGTH = 0.05, 0.75, 30.0
TOKENS = torch.tensor([[5, 9, 7, 1], [8, 6, 11, 1]])


@pytest.fixture(params=[("v1.1", "q,v"), ("v1.1", "all-linear,lm_head"),
                        ("v1.0", "all-linear,lm_head")], ids=str)  # fmt: skip
def config(
    config: ContinualConfig, request: pytest.FixtureRequest, tmp_path: Path
) -> ContinualConfig:
    """With targets of few or all layers; the head of v1.0 is tied, and its input scaled."""
    style, targets = request.param
    if style != "v1.1":
        config = replace(config, backbone=str(tiny_t5(tmp_path / "tied", style=style, layers=1)))
    return replace(config, targets=tuple(targets.split(",")))


@pytest.fixture
def adapted(config: ContinualConfig) -> AdaptedBackbone:
    """The gate is set and three quarters closed; all entries have a size."""
    stage = replace(config, gate=GateConfig(bandwidth=BANDWIDTH)).stage(2, "mood", config.data)
    backbone = read_backbone(Path(config.backbone))
    adapted = load_adapted(backbone, (), stage, torch.device("cpu"))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer in adapted.layers.values():
            layer.B.normal_(std=0.3, generator=generator)
    adapted.set_thresholds()
    adapted.set_fraction(FRACTION)
    return adapted


def _loss(model: T5ForConditionalGeneration) -> Tensor:
    logits = model(input_ids=TOKENS, decoder_input_ids=TOKENS).logits
    return cross_entropy(logits.flatten(0, 1), TOKENS.flip(0).flatten())


def _weight_gradients(adapted: AdaptedBackbone, config: ContinualConfig) -> dict[str, Tensor]:
    """d loss / d W by target, of an ordinary model whose weights are W0 + s Z_f."""
    model = T5ForConditionalGeneration.from_pretrained(config.backbone)
    # A tied head's update is none of the embedding.
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    weights = {name: model.get_submodule(name).weight for name in adapted.layers}
    with torch.no_grad():
        for name, layer in adapted.layers.items():
            weights[name] += layer.scale * layer.mixed()
    _loss(model).backward()  # type: ignore[no-untyped-call]
    return {name: weight.grad for name, weight in weights.items() if weight.grad is not None}


def test_a_step_of_ella_with_the_gate(adapted: AdaptedBackbone, config: ContinualConfig) -> None:
    generator = torch.Generator().manual_seed(3)
    past = {
        name: torch.randn(layer.base.shape, generator=generator)
        for name, layer in adapted.layers.items()
    }
    by_weight = _weight_gradients(adapted, config)
    (gate,) = adapted.gates.values()
    tau, count = gate.log_tau.detach().exp(), len(adapted.layers)

    _loss(adapted.model).backward()  # type: ignore[no-untyped-call]
    value = EllaPenalty(adapted.layers, past, STRENGTH).add()

    overlap, by_log_tau, crossing = torch.zeros(()), torch.zeros(()), 0
    for name, layer in adapted.layers.items():
        A, B, s = layer.A.detach(), layer.B.detach(), layer.scale
        Z = B @ A
        passes = Z.abs() > tau
        share = torch.where(passes, 1.0, 1.0 - FRACTION)  # Z_f = share * Z, and so its derivative
        overlap += (s * share * Z * past[name]).square().sum()
        # d/dZ_f of the loss, and of strength / layers * || s Z_f * W_past ||^2
        of_loss = s * by_weight[name]
        of_ella = 2 * STRENGTH / count * s**2 * share * Z * past[name] ** 2
        by_z = share * (of_loss + of_ella)
        for parameter, expected in ((layer.A, B.T @ by_z), (layer.B, by_z @ A.T)):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-4)
        near = (Z.abs() - tau).abs() < BANDWIDTH / 2
        crossing += int(near.sum())
        # The loss alone: -(tau^2 / bandwidth) * f * mean(rect * sign(Z) * d loss / d Z_f)
        by_log_tau -= tau**2 / BANDWIDTH * (near * Z.sign() * FRACTION * of_loss).mean()
    assert crossing > 100
    assert value == pytest.approx(STRENGTH / count * float(overlap), rel=1e-5)
    assert gate.log_tau.grad is not None
    torch.testing.assert_close(gate.log_tau.grad, by_log_tau, rtol=1e-3, atol=1e-7)
