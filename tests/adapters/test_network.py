"""The network's modules have the names and shapes that transformers gives them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from jumplora_adapters.architecture import architecture_of
from jumplora_adapters.network import (
    HEAD,
    embeddings,
    kind_of,
    network,
    parameters,
    short_name,
    sites,
    version_1_targets,
)

SHAPES: dict[str, dict[str, Any]] = {
    "t5": {"model_type": "t5", "num_layers": 1},
    "deep decoder": {"model_type": "t5", "num_layers": 1, "num_decoder_layers": 3},
    "mt5": {"model_type": "mt5", "num_layers": 3, "num_decoder_layers": 1},
    "umt5": {"model_type": "umt5", "num_layers": 3, "num_decoder_layers": 2},
    "gated silu": {"model_type": "t5", "num_layers": 1, "feed_forward_proj": "gated-silu"},
    "silu": {"model_type": "umt5", "num_layers": 1, "feed_forward_proj": "silu"},
    "mt5 with relu": {"model_type": "mt5", "num_layers": 2, "feed_forward_proj": "relu"},
}
SIZES = {"d_model": 12, "d_kv": 5, "d_ff": 7, "num_heads": 3, "vocab_size": 20}

PACKAGES = ("adapters/jumplora_adapters", "server", "benchmarks", "deploy")
# A module of T5, as opposed to a field of config.json.
T5_MODULE = re.compile(
    r"SelfAttention|EncDecAttention|DenseReluDense|layer_norm(?!_epsilon)|embed_tokens"
    r"|relative_attention_bias|lm_head"
)


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, **SIZES, "relative_attention_num_buckets": 9}


def _theirs(fields: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(**_config(fields)))


@pytest.fixture(params=SHAPES)
def fields(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SHAPES[request.param]


def test_parameters_are_those_of_transformers(fields: dict[str, Any]) -> None:
    asked = parameters(architecture_of(_config(fields)))
    state = _theirs(fields).state_dict()
    assert asked.shapes == {name: tuple(value.shape) for name, value in state.items()}
    assert set(asked.tied) <= state.keys()
    assert not asked.obsolete & state.keys()


def test_sites_are_all_linear_layers_of_transformers(fields: dict[str, Any]) -> None:
    theirs = {
        name: (module.out_features, module.in_features)
        for name, module in _theirs(fields).named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    ours = sites(architecture_of(_config(fields)))
    assert {name: site.shape for name, site in ours.items()} == theirs
    assert list(ours) == [site.name for site in ours.values()]
    assert list(ours)[-1] == HEAD


def test_embeddings_are_those_of_transformers(fields: dict[str, Any]) -> None:
    # Of an embedding that two stacks share, named_modules tells the first name alone.
    theirs = {
        name
        for name, module in _theirs(fields).named_modules(remove_duplicate=False)
        if isinstance(module, torch.nn.Embedding)
    }
    assert set(embeddings(architecture_of(_config(fields)))) == theirs


def test_targets_are_the_q_and_v_among_the_sites(fields: dict[str, Any]) -> None:
    architecture = architecture_of(_config(fields))
    targets = version_1_targets(architecture)
    assert len(targets) == 2 * (architecture.num_layers + 2 * architecture.num_decoder_layers)
    known = sites(architecture)
    assert [name for name in known if name.rpartition(".")[2] in ("q", "v")] == list(targets)
    assert all(known[name].shape == shape for name, shape in targets.items())


def test_the_sites_of_a_block_know_where_they_are() -> None:
    modules = network(architecture_of(_config(SHAPES["t5"])))
    (block,) = modules.decoder.blocks
    assert block.cross is not None
    assert block.cross.q.name == "decoder.block.0.layer.1.EncDecAttention.q"
    assert block.cross.q.weight == "decoder.block.0.layer.1.EncDecAttention.q.weight"
    assert (block.cross.q.stack, block.cross.q.block) == ("decoder", 0)
    assert (block.cross.q.part, block.cross.q.role) == ("cross", "q")
    assert block.feed_forward.narrow.shape == (SIZES["d_model"], SIZES["d_ff"])
    assert (modules.head.block, modules.head.part) == (None, "head")
    assert modules.encoder.blocks[0].cross is None


@pytest.mark.parametrize(
    ("module", "kind", "short"),
    [
        ("encoder.block.3.layer.0.SelfAttention.q", "encoder SelfAttention q", "encoder 3 self q"),
        ("decoder.block.11.layer.1.EncDecAttention.v", "decoder EncDecAttention v",
         "decoder 11 cross v"),
        ("decoder.block.0.layer.2.DenseReluDense.wi_1", "decoder DenseReluDense wi_1",
         "decoder 0 feed-forward wi_1"),
        ("lm_head", "lm_head", "lm_head"),
    ],
)  # fmt: skip
def test_modules_have_names_for_people(module: str, kind: str, short: str) -> None:
    assert (kind_of(module), short_name(module)) == (kind, short)


def test_every_site_has_names_for_people(fields: dict[str, Any]) -> None:
    known = sites(architecture_of(_config(fields)))
    assert len({short_name(name) for name in known}) == len(known)
    assert len({kind_of(name) for name in known}) == len(
        {(site.stack, site.part, site.role) for site in known.values()}
    )


def test_no_other_file_names_a_module_of_t5() -> None:
    root = Path(__file__).parents[2]
    files = [
        path
        for package in PACKAGES
        for path in (root / package).rglob("*")
        if path.suffix in (".py", ".cpp", ".h")
    ]
    assert len(files) > 300
    named = {path for path in files if T5_MODULE.search(path.read_text("utf-8"))}
    assert named == {root / "adapters/jumplora_adapters/network.py"}


def test_names_of_another_form_are_given_as_they_are() -> None:
    assert short_name("enc.layers.0.attn.wq") == "enc.layers.0.attn.wq"
    assert kind_of("out_proj") == "out_proj"
