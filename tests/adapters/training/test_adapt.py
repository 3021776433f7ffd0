"""Attached layers, thresholds, and the deltas they amount to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from factories import Style, random_adapter, tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.delta import LowRankDelta
from jumplora_adapters.errors import GateCollapsed
from jumplora_adapters.format import Adapter
from jumplora_adapters.training.adapt import AdaptedBackbone, load_adapted
from jumplora_adapters.training.config import GateConfig, TrainConfig
from jumplora_adapters.training.threshold import threshold_for

CPU = torch.device("cpu")


@pytest.fixture
def backbone(config: TrainConfig) -> Backbone:
    return read_backbone(Path(config.backbone))


def _load(backbone: Backbone, config: TrainConfig) -> AdaptedBackbone:
    adapted = load_adapted(backbone, (), config, CPU)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in adapted.layers.values():
            layer.B.normal_(generator=generator)
    return adapted


def _logits(adapted: AdaptedBackbone) -> torch.Tensor:
    ids = torch.tensor([[5, 6, 7, 1]])
    logits: torch.Tensor = adapted.model(input_ids=ids, decoder_input_ids=ids).logits
    return logits


def test_only_factors_and_thresholds_are_trained(backbone: Backbone, config: TrainConfig) -> None:
    adapted = load_adapted(backbone, (), config, CPU)
    ours = {id(parameter) for _, parameter in adapted.named_parameters()}
    for parameter in adapted.model.parameters():
        assert parameter.requires_grad == (id(parameter) in ours)
    assert set(adapted.layers) == set(backbone.targets)
    assert set(adapted.gates) == {"global"}


def test_a_block_is_a_group(backbone: Backbone, config: TrainConfig) -> None:
    blocks = load_adapted(backbone, (), replace(config, gate=GateConfig("block")), CPU)
    assert set(blocks.gates) == {"encoder.block.0", "decoder.block.0"}
    cross = blocks.layers["decoder.block.0.layer.1.EncDecAttention.v"]
    assert cross.gate is blocks.gates["decoder.block.0"]


def test_threshold_keeps_as_many_entries_as_the_factors_have(
    backbone: Backbone, config: TrainConfig
) -> None:
    adapted = _load(backbone, config)
    adapted.set_thresholds()
    layers = list(adapted.layers.values())
    factors = sum(layer.A.numel() + layer.B.numel() for layer in layers)
    total = sum(layer.base.numel() for layer in layers)
    assert round(adapted.density() * total) == factors
    sizes = torch.cat([(layer.B @ layer.A).detach().abs().flatten() for layer in layers])
    assert threshold_for(layers) == float(sizes.sort(descending=True).values[factors])


def test_each_block_gets_its_own_threshold(backbone: Backbone, config: TrainConfig) -> None:
    adapted = _load(backbone, replace(config, gate=GateConfig("block")))
    adapted.set_thresholds()
    for group, gate in adapted.gates.items():
        layers = [layer for layer in adapted.layers.values() if layer.gate is gate]
        kept = sum(int((layer.product().abs() > gate.tau).sum()) for layer in layers)
        assert kept == sum(layer.A.numel() + layer.B.numel() for layer in layers), group


def test_a_rank_that_keeps_everything_is_refused(backbone: Backbone, config: TrainConfig) -> None:
    with pytest.raises(GateCollapsed, match="smaller rank"):
        _load(backbone, replace(config, rank=16)).set_thresholds()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_serving_is_the_closed_gate_rounded(
    backbone: Backbone, config: TrainConfig, dtype: torch.dtype
) -> None:
    adapted = _load(backbone, config)
    adapted.set_thresholds()
    adapted.set_fraction(1.0)
    deltas = adapted.deltas(dtype)
    trained = _logits(adapted)
    with adapted.serving(deltas):
        served = _logits(adapted)
    tolerance = 1e-5 if dtype == torch.float32 else 0.2
    torch.testing.assert_close(served, trained, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(_logits(adapted), trained, rtol=0, atol=0)
    adapted.set_fraction(0.5)  # what is saved does not depend on the fraction
    again = adapted.deltas(dtype)
    assert [d.digest() for d in again.values()] == [d.digest() for d in deltas.values()]


def test_a_bfloat16_backbone_is_served_in_float32(backbone: Backbone, config: TrainConfig) -> None:
    wide = _load(backbone, config)
    narrow = _load(backbone, replace(config, precision="bfloat16"))
    trained = _logits(narrow)
    assert trained.dtype == torch.bfloat16
    with wide.serving(wide.deltas(torch.float32)), narrow.serving(narrow.deltas(torch.float32)):
        torch.testing.assert_close(_logits(narrow), _logits(wide), rtol=1e-3, atol=1e-4)
    assert torch.equal(_logits(narrow), trained)


def test_plain_lora_keeps_its_factors(backbone: Backbone, config: TrainConfig) -> None:
    adapted = _load(backbone, replace(config, method="lora"))
    assert adapted.gates == {}
    for name, delta in adapted.deltas(torch.float32).items():
        layer = adapted.layers[name]
        assert isinstance(delta, LowRankDelta)
        expected = config.alpha / config.rank * (layer.B @ layer.A).detach()
        torch.testing.assert_close(delta.to_dense(), expected)


def test_ancestors_are_added_to_the_frozen_weights(backbone: Backbone, config: TrainConfig) -> None:
    ancestors = []
    for seed in (1, 2):
        manifest, deltas = random_adapter(backbone, seed=seed)
        ancestors.append(Adapter(manifest, deltas, f"{seed}" * 64))
    bare = load_adapted(backbone, (), config, CPU)
    adapted = load_adapted(backbone, ancestors, config, CPU)
    for name, layer in adapted.layers.items():
        expected = bare.layers[name].base.clone()
        for ancestor in ancestors:
            expected += ancestor.deltas[name].to_dense()
        assert torch.equal(layer.base, expected)


def test_restore_brings_a_state_back(backbone: Backbone, config: TrainConfig) -> None:
    adapted = _load(backbone, config)
    state = adapted.state()
    with torch.no_grad():
        for _, parameter in adapted.named_parameters():
            parameter.add_(1.0)
    adapted.restore(state)
    for name, parameter in adapted.named_parameters():
        assert torch.equal(parameter, state[name])


def test_no_threshold_can_be_0(backbone: Backbone, config: TrainConfig) -> None:
    adapted = load_adapted(backbone, (), config, CPU)  # B is 0, so all of the update is
    with pytest.raises(GateCollapsed, match="no threshold above 0"):
        adapted.set_thresholds()


@pytest.mark.parametrize("style", ["v1.0", "v1.1"])
def test_a_delta_of_the_head_is_none_of_the_embedding(
    tmp_path: Path, config: TrainConfig, style: Style
) -> None:
    """v1.0 ties the two; serving adds the delta to the head alone."""
    backbone = read_backbone(tiny_t5(tmp_path / "tied", style=style))
    manifest, deltas = random_adapter(backbone, targets=["lm_head"])
    plain = load_adapted(backbone, [], config, CPU).model
    model = load_adapted(backbone, [Adapter(manifest, deltas, "a" * 64)], config, CPU).model
    assert torch.equal(model.get_input_embeddings().weight, plain.get_input_embeddings().weight)
    wanted = plain.get_output_embeddings().weight + deltas["lm_head"].to_dense()
    torch.testing.assert_close(model.get_output_embeddings().weight, wanted)
