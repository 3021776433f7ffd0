"""config.json is read as transformers reads it, or refused by the name of the field."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_adapters.architecture import Architecture, architecture_of, read_architecture
from jumplora_adapters.errors import BackboneError

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "d_model": st.integers(1, 40),
    "d_kv": st.integers(1, 8),
    "d_ff": st.integers(1, 40),
    "num_heads": st.integers(1, 4),
    "num_layers": st.integers(1, 3),
    "num_decoder_layers": st.none() | st.integers(1, 3),
    "vocab_size": st.integers(2, 50),
    "relative_attention_num_buckets": st.integers(4, 40),
    "relative_attention_max_distance": st.integers(21, 200),
    "layer_norm_epsilon": st.sampled_from([1e-6, 1e-5]),
    "feed_forward_proj": st.sampled_from(
        ["relu", "gated-gelu", "gated-silu", "gelu", "silu", "gated-relu", "gelu_new"]
    ),
    "tie_word_embeddings": st.booleans(),
    "scale_decoder_outputs": st.booleans(),
}


def transformers_reads(config: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    fields = {name: value for name, value in config.items() if name != "model_type"}
    return AutoConfig.for_model(config["model_type"], **fields)


@given(
    model_type=st.sampled_from(["t5", "mt5", "umt5"]),
    fields=st.fixed_dictionaries({}, optional=FIELDS),
)
def test_fields_and_defaults_are_those_of_transformers(
    model_type: str, fields: dict[str, Any]
) -> None:
    config = {"model_type": model_type, **fields}
    ours, theirs = architecture_of(config), transformers_reads(config)
    read = ours.as_json()
    scales = read.pop("scales_decoder_outputs")
    assert read == {name: getattr(theirs, name) for name in read}
    assert ours.is_gated == theirs.is_gated_act
    names = {"gelu_tanh": "gelu_new"}
    assert names.get(ours.activation, ours.activation) == theirs.dense_act_fn
    # mT5's forward never looks at the field, and umT5's takes tie_word_embeddings for true.
    by_type = {"t5": getattr(theirs, "scale_decoder_outputs", None), "mt5": False,
               "umt5": fields.get("scale_decoder_outputs", False)}  # fmt: skip
    assert scales == by_type[model_type]


@pytest.mark.parametrize(
    "name", ["longt5", "switch_transformers", "t5gemma", "t5gemma2", "pix2struct", "udop"]
)
def test_relatives_of_t5_are_refused_in_one_sentence(name: str) -> None:
    from transformers import AutoConfig

    content = AutoConfig.for_model(name).to_dict()
    with pytest.raises(BackboneError) as refused:
        architecture_of(content)
    sentence = rf"config\.json: model_type is '{name}' \(\S.*\); allowed are t5, mt5, umt5"
    assert re.fullmatch(sentence, str(refused.value))


def test_what_follows_of_the_fields() -> None:
    plain = architecture_of({"model_type": "t5", "d_model": 64, "num_heads": 3, "d_kv": 5})
    assert (plain.inner, plain.logit_scale) == (15, 1 / 8)
    assert architecture_of({"model_type": "mt5"}).logit_scale == 1
    umt5 = {"model_type": "umt5", "d_model": 64, "tie_word_embeddings": True}
    assert architecture_of(umt5).logit_scale == 1
    assert architecture_of({**umt5, "scale_decoder_outputs": True}).logit_scale == 1 / 8


def test_a_folder_is_read_by_its_config(tmp_path: Path) -> None:
    content = {"model_type": "mt5", "dropout_rate": 0.3, "transformers_weights": None}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_architecture(tmp_path) == architecture_of({"model_type": "mt5"})
    assert isinstance(read_architecture(tmp_path), Architecture)
    (tmp_path / "config.json").unlink()
    with pytest.raises(BackboneError, match=r"no config\.json"):
        read_architecture(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; allowed are t5, mt5, umt5"),
        ({"model_type": None}, "model_type is None; allowed are t5, mt5, umt5"),
        ({"auto_map": {"AutoModel": "evil.py"}}, "auto_map: code"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantization_config: quantized"),
        ({"per_layer_config": {"0": {"d_ff": 8}}}, "per_layer_config: layers"),
        ({"transformers_weights": "other.safetensors"}, r"transformers_weights: .*rename the file"),
        ({"configuration_files": ["config.5.json"]}, "configuration_files: another"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder is False"),
        ({"feed_forward_proj": "mish"}, "feed_forward_proj is 'mish'; .*silu, swish, .*gated-"),
        ({"feed_forward_proj": "gated"}, "feed_forward_proj is 'gated'"),
        ({"feed_forward_proj": "gated-"}, "feed_forward_proj is 'gated-'"),
        ({"feed_forward_proj": "gated-gated-gelu"}, "feed_forward_proj is 'gated-gated-gelu'"),
        ({"feed_forward_proj": ["relu"]}, r"feed_forward_proj is \['relu'\]"),
        ({"feed_forward_proj": None}, "feed_forward_proj is None"),
        ({"dense_act_fn": "gelu_new"}, "dense_act_fn is 'gelu_new', .*'relu' or not given"),
        ({"dense_act_fn": None}, "dense_act_fn is None"),
        ({"is_gated_act": True}, "is_gated_act is True, .*'relu'"),
        (
            {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"},
            "dense_act_fn is 'gelu', .*'gated-gelu'; .*'gelu_new' or not given",
        ),
        ({"feed_forward_proj": "gated-gelu", "is_gated_act": False}, "is_gated_act is False"),
        ({"scale_decoder_outputs": None}, "scale_decoder_outputs is None; true or false"),
        ({"d_model": None}, "d_model is None; 1 to 65535"),
        ({"d_model": 65_536}, "d_model is 65536; 1 to 65535"),
        ({"d_model": 32.0}, r"d_model is 32\.0"),
        ({"d_ff": 65_537}, "d_ff is 65537; 1 to 65536"),
        ({"d_ff": "48"}, "d_ff is '48'"),
        ({"d_kv": 0}, "d_kv is 0"),
        ({"num_heads": 1024, "d_kv": 128}, r"num_heads \* d_kv is 131072; at most 65536"),
        ({"num_heads": -4}, "num_heads is -4"),
        ({"num_layers": True}, "num_layers is True"),
        ({"num_layers": 257}, "num_layers is 257; 1 to 256"),
        ({"num_decoder_layers": 0}, "num_decoder_layers is 0"),
        ({"layer_norm_epsilon": None}, "layer_norm_epsilon is None"),
        ({"layer_norm_epsilon": 1}, "layer_norm_epsilon is 1"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
        ({"relative_attention_num_buckets": None}, "relative_attention_num_buckets is None"),
        ({"relative_attention_num_buckets": 3}, "num_buckets is 3 .*at least 4"),
        ({"relative_attention_max_distance": 16}, "max_distance 16; .*more than half"),
        ({"d_model": 32, "hidden_size": 64}, "hidden_size is 64, but d_model is 32"),
        ({"hidden_size": 64}, "hidden_size is 64, but d_model is 512"),
        (
            {"num_hidden_layers": 3},
            "num_hidden_layers is 3, .* is 6; .*write the size as num_layers",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        architecture_of({"model_type": "t5", **fields})


def test_other_names_of_a_size_may_agree() -> None:
    same = architecture_of({"model_type": "t5", "d_model": 64, "hidden_size": 64, "head_dim": 64})
    assert same == architecture_of({"model_type": "t5", "d_model": 64})
