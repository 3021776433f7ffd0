"""The pre-training network beside transformers', its optimizer, and the folder it exports."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from demo.recipe.export import configuration, export
from demo.recipe.network import (
    COPY_STRENGTH,
    IGNORED,
    CrossSublayer,
    Network,
    Shape,
    initialise,
    relative_buckets,
)
from demo.recipe.optimizer import MOMENTUM, MUON_DECAY, MUON_RATE, Optimizer, orthogonalised

SHAPE = Shape(
    vocabulary=64, d_model=16, d_kv=4, heads=4, d_ff=24, encoder_layers=2, decoder_layers=2
)  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def network() -> Network:
    made = Network(SHAPE)
    embedding = torch.randn(SHAPE.vocabulary, SHAPE.d_model, generator=seeded())
    initialise(made, embedding, seeded(1))
    with torch.no_grad():  # as they are stored
        for parameter in made.parameters():
            parameter.copy_(parameter.bfloat16())
    return made


@pytest.fixture
def reference(network: Network, tmp_path: Path) -> T5ForConditionalGeneration:
    """transformers' model of the exported folder, in float32."""
    export(SHAPE, network.state_dict(), tmp_path)
    model = T5ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    return model.eval()


def test_the_loss_is_transformers(network: Network, reference: T5ForConditionalGeneration) -> None:
    source = torch.randint(3, SHAPE.vocabulary, (3, 9), generator=seeded(2))
    source[1, 6:] = 0
    targets = torch.randint(3, SHAPE.vocabulary, (3, 5), generator=seeded(3))
    targets[2, 3:] = IGNORED
    mask = source != 0
    padding = torch.zeros(3, 1, 1, 9).masked_fill(~mask[:, None, None], -1e9)
    with torch.no_grad():
        ours = network(source, padding, targets)
        theirs = reference(input_ids=source, attention_mask=mask.long(), labels=targets).loss
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_without_padding_nothing_is_masked(network: Network) -> None:
    source = torch.randint(3, SHAPE.vocabulary, (2, 9), generator=seeded(2))
    targets = torch.randint(3, SHAPE.vocabulary, (2, 5), generator=seeded(3))
    with torch.no_grad():
        plain = network(source, None, targets)
        padded = network(source, torch.zeros(2, 1, 1, 9), targets)
    assert float(plain) == pytest.approx(float(padded), rel=1e-6)


@pytest.mark.parametrize("is_bidirectional", [True, False])
def test_buckets_are_transformers(is_bidirectional: bool) -> None:
    distance = torch.arange(-300, 301)[None]
    shape = Shape()
    expected = T5Attention._relative_position_bucket(
        distance,
        bidirectional=is_bidirectional,
        num_buckets=shape.buckets,
        max_distance=shape.max_distance,
    )
    found = relative_buckets(distance, shape, is_bidirectional=is_bidirectional)
    assert torch.equal(found, expected)


def test_the_decoder_does_not_look_ahead(network: Network) -> None:
    bias = network.decoder.position_bias(6)
    later = torch.triu(torch.ones(6, 6), 1).bool()
    assert (bias[0, :, later] < -1e8).all()
    assert (bias[0, :, ~later] > -1e3).all()


def test_cross_attention_begins_as_a_copier() -> None:
    made = Network(SHAPE)
    initialise(made, torch.ones(SHAPE.vocabulary, SHAPE.d_model), seeded())
    x = torch.randn(5, SHAPE.d_model, generator=seeded(4))
    found = [each for each in made.decoder.modules() if isinstance(each, CrossSublayer)]
    assert len(found) == SHAPE.decoder_layers
    for sublayer in found:
        attention = sublayer.EncDecAttention
        assert torch.allclose(attention.o(attention.v(x)), COPY_STRENGTH * x, atol=1e-5)
    assert torch.equal(made.shared.weight, torch.ones(SHAPE.vocabulary, SHAPE.d_model))


def test_the_seed_decides_the_first_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        made = Network(SHAPE)
        initialise(made, torch.zeros(SHAPE.vocabulary, SHAPE.d_model), seeded(seed))
        return torch.cat([p.detach().flatten() for p in made.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_an_exported_folder_has_all_sizes(reference: T5ForConditionalGeneration) -> None:
    config = reference.config
    assert (config.num_layers, config.num_decoder_layers) == (2, 2)
    assert (config.d_ff, config.d_kv, config.num_heads) == (24, 4, 4)
    assert config.feed_forward_proj == "gated-gelu"
    assert reference.generation_config.max_new_tokens == 16
    assert configuration(Shape()).vocab_size == 32128


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_names_that_are_not_t5s_are_refused(change: str, network: Network, tmp_path: Path) -> None:
    weights = dict(network.state_dict())
    value = weights.pop("encoder.block.0.layer.0.SelfAttention.q.weight")
    if change == "unknown":
        weights["encoder.block.9.q.weight"] = value
    with pytest.raises(RuntimeError, match="names do not match T5's"):
        export(SHAPE, weights, tmp_path)


@pytest.mark.parametrize("size", [(16, 16), (24, 8), (8, 24)])
def test_orthogonalised_updates_keep_their_directions(size: tuple[int, int]) -> None:
    update = torch.randn(3, *size, generator=seeded())
    found = orthogonalised(update)
    assert found.shape == update.shape
    singular = torch.linalg.svdvals(found)
    assert float(singular.min()) > 0.4
    assert float(singular.max()) < 1.3
    for before, after in zip(update, found, strict=True):
        u, _, v = torch.linalg.svd(before, full_matrices=False)
        inner = u.T @ after @ v.T
        assert torch.allclose(inner, torch.diag(torch.diagonal(inner)), atol=0.1)


def test_matrices_that_write_to_the_stream_step_by_muon() -> None:
    parameter = torch.ones(8, 8)
    parameter.grad = torch.randn(8, 8, generator=seeded())
    adam = torch.ones(4)
    adam.grad = torch.ones(4)
    optimizer = Optimizer([("a.o.weight", parameter), ("a.layer_norm.weight", adam)])
    optimizer.step(0.5)
    gradient = parameter.grad
    momentum = gradient * (1 - MOMENTUM)
    change = orthogonalised(gradient.lerp(momentum, MOMENTUM)[None])[0]
    rate = 0.5 * MUON_RATE
    expected = 1 - rate * MUON_DECAY - rate * 0.2 * 8**0.5 * change
    assert torch.allclose(parameter, expected, atol=1e-6)
    assert torch.allclose(adam, torch.full((4,), 1 - 0.5e-3), atol=1e-6), "AdamW's first step"


def test_a_stored_state_goes_on_to_the_same_steps() -> None:
    def fresh() -> tuple[list[tuple[str, torch.Tensor]], Optimizer]:
        named = [("a.o.weight", torch.ones(4, 4)), ("shared.weight", torch.ones(4, 4))]
        return named, Optimizer(named)

    def step(named: list[tuple[str, torch.Tensor]], optimizer: Optimizer, seed: int) -> None:
        for number, (_, parameter) in enumerate(named):
            parameter.grad = torch.randn(4, 4, generator=seeded(10 * seed + number))
        optimizer.step(1.0)

    named, optimizer = fresh()
    step(named, optimizer, 1)
    again, resumed = fresh()
    for (_, ours), (_, theirs) in zip(again, named, strict=True):
        ours.copy_(theirs)
    resumed.load(deepcopy(optimizer.state()))  # as a file has it
    for each, of in ((named, optimizer), (again, resumed)):
        step(each, of, 2)
    for (_, ours), (_, theirs) in zip(again, named, strict=True):
        assert torch.equal(ours, theirs)
