"""Random backbones: whole for transformers, of T5's scales, the same for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, T5ForConditionalGeneration

from jumplora_adapters.backbone import read_backbone
from jumplora_bench.backbone import write_backbone
from jumplora_bench.prompts import random_prompts
from jumplora_bench.shapes import SHAPE_NAMES, VOCABULARY, ShapeName, config_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("bench") / "deep" / "backbone", "tiny")


def test_transformers_finds_all_of_it_and_nothing_else(folder: Path) -> None:
    _, told = T5ForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)


def test_scales_are_those_that_t5_starts_with(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    config = config_of("tiny")
    wide, inner = config["d_model"], config["num_heads"] * config["d_kv"]
    block = "encoder.block.0.layer"
    expected = {
        "shared.weight": 0.05,
        f"{block}.0.SelfAttention.q.weight": (wide * config["d_kv"]) ** -0.5,
        f"{block}.0.SelfAttention.k.weight": wide**-0.5,
        f"{block}.0.SelfAttention.o.weight": inner**-0.5,
        f"{block}.1.DenseReluDense.wi.weight": wide**-0.5,
        f"{block}.1.DenseReluDense.wo.weight": config["d_ff"] ** -0.5,
    }
    for name, std in expected.items():
        assert float(weights[name].std()) == pytest.approx(std, rel=0.05), name
    assert torch.equal(weights[f"{block}.0.layer_norm.weight"], torch.ones(wide))


def test_the_seed_alone_decides(folder: Path, tmp_path: Path) -> None:
    again = write_backbone(tmp_path / "again", "tiny")
    other = write_backbone(tmp_path / "other", "tiny", seed=1)
    prints = {read_backbone(each).fingerprint for each in (folder, again)}
    assert len(prints) == 1
    assert read_backbone(other).fingerprint not in prints


@pytest.mark.parametrize("shape", SHAPE_NAMES)
def test_shapes_are_consistent(shape: ShapeName) -> None:
    config = config_of(shape)
    json.dumps(config)
    assert config["num_layers"] == config["num_decoder_layers"]
    assert config["num_heads"] * config["d_kv"] == config["d_model"]
    assert config["vocab_size"] == VOCABULARY


def test_base_and_large_have_the_published_numbers_of_parameters() -> None:
    """222,903,552 and 737,668,096 (google-t5/t5-base, t5-large)."""
    for shape, published in (("base", 222_903_552), ("large", 737_668_096)):
        config = config_of(shape)  # type: ignore[arg-type]
        wide, layers = config["d_model"], config["num_layers"]
        attention = 4 * wide * config["num_heads"] * config["d_kv"]
        feed_forward = 2 * wide * config["d_ff"]
        encoder = layers * (attention + feed_forward + 2 * wide)
        decoder = layers * (2 * attention + feed_forward + 3 * wide)
        tables = 2 * 32 * config["num_heads"]
        assert encoder + decoder + tables + 2 * wide + VOCABULARY * wide == published


def test_prompts_have_exactly_so_many_tokens() -> None:
    prompts = random_prompts(5, 7, 100)
    assert len(prompts) == len(set(prompts)) == 5
    for prompt in prompts:
        assert len(prompt) == 7
        assert prompt[-1] == 1
        assert all(3 <= token < 100 for token in prompt[:-1])
    assert random_prompts(5, 7, 100) == prompts
    assert random_prompts(5, 7, 100, seed=2) != prompts
