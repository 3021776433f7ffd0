from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_adapters.convert.names import (
    WRAPPER_SUFFIXES,
    match_module,
    match_modules,
    surroundings,
)
from jumplora_adapters.errors import ConvertError

ENCODER_Q = "encoder.block.0.layer.0.SelfAttention.q"
ENCODER_V = "encoder.block.0.layer.0.SelfAttention.v"
DECODER_Q = "decoder.block.0.layer.0.SelfAttention.q"
CROSS_V = "decoder.block.0.layer.1.EncDecAttention.v"
TARGETS = (ENCODER_Q, ENCODER_V, DECODER_Q, CROSS_V)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param(ENCODER_Q, ENCODER_Q, id="as in the official code"),
        pytest.param(f"base_model.model.{CROSS_V}", CROSS_V, id="PEFT's prefix"),
        pytest.param(f"module.{DECODER_Q}.base_layer", DECODER_Q, id="wrapper's component"),
        pytest.param(f"{ENCODER_V}.weight", ENCODER_V, id="name of the weight"),
        pytest.param("EncDecAttention.v", CROSS_V, id="only one target ends so"),
        pytest.param(ENCODER_Q.removeprefix("encoder."), None, id="encoder or decoder"),
        pytest.param("q", None, id="every block has it"),
        pytest.param("encoder.block.0.layer.0.SelfAttention.k", None, id="no target"),
        pytest.param("xencoder.block.0.layer.0.SelfAttention.q", None, id="not at a dot"),
        pytest.param("encoder.block.9.layer.0.SelfAttention.q", None, id="no such block"),
        pytest.param("", None, id="empty"),
        pytest.param("weight", None, id="only a suffix"),
        pytest.param("x." * 500 + ENCODER_Q, None, id="a thousand characters"),
    ],
)
def test_match_module(name: str, target: str | None) -> None:
    if target is None:
        with pytest.raises(ConvertError):
            match_module(name, TARGETS)
    else:
        assert match_module(name, TARGETS) == target


def test_messages_tell_ambiguous_from_unknown() -> None:
    with pytest.raises(ConvertError, match="ambiguous: 2 targets end with it"):
        match_module("SelfAttention.q", TARGETS)
    with pytest.raises(ConvertError, match="none of the backbone's linear layers"):
        match_module("encoder.block.0.layer.1.DenseReluDense.wi", TARGETS)
    with pytest.raises(ConvertError, match="none of the backbone's linear layers"):
        match_module("encoder.block.9.layer.1.DenseReluDense.wi", TARGETS)
    with pytest.raises(ConvertError, match="another backbone, with more layers"):
        match_module("base_model.encoder.block.9.layer.0.SelfAttention.q", TARGETS)


def test_two_names_for_one_target_are_refused() -> None:
    with pytest.raises(ConvertError, match="both mean"):
        match_modules([ENCODER_Q, f"base_model.{ENCODER_Q}"], TARGETS)


@given(
    prefix=st.lists(st.sampled_from(["base_model", "model", "module", "encoder"]), max_size=3),
    target=st.sampled_from(TARGETS),
    suffix=st.lists(st.sampled_from(WRAPPER_SUFFIXES), max_size=2),
)
def test_wrapping_a_name_does_not_change_its_target(
    prefix: list[str], target: str, suffix: list[str]
) -> None:
    name = ".".join([*prefix, target, *suffix])
    assert match_module(name, TARGETS) == target
    assert surroundings(name, target).around(target) == name


def test_names_of_other_modules_have_the_same_surroundings() -> None:
    around = surroundings(f"t5.{ENCODER_Q}.linear", ENCODER_Q)
    assert around.around(CROSS_V) == f"t5.{CROSS_V}.linear"
    of_decoder = surroundings(CROSS_V.removeprefix("decoder."), CROSS_V)
    assert of_decoder.around(DECODER_Q) == DECODER_Q.removeprefix("decoder.")
    assert of_decoder.around(ENCODER_Q) is None
