"""Folders that PEFT saved, against the updates of the model that it saved them from."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from factories import Style, tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.convert.draft import Draft
from jumplora_adapters.delta import LowRankDelta
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.format import read_adapter
from peft_folders import (
    assert_updates,
    bare,
    change_tensors,
    convert,
    in_t5,
    load_model,
    reloaded,
    save_trained,
    set_fields,
    twice,
)

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

Q = "encoder.block.0.layer.0.SelfAttention.q"
V = "decoder.block.1.layer.1.EncDecAttention.v"
WRAPPERS = {"": bare, "t5.": in_t5}


@pytest.mark.parametrize("front", WRAPPERS)
@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="plain"),
        pytest.param({"use_rslora": True}, id="rslora"),
        pytest.param({"alpha_pattern": {"{}" + Q: 64}}, id="full name"),
        pytest.param({"alpha_pattern": {"^{}" + Q: 64, f"^{V}": 3}}, id="full names, anchored"),
        pytest.param({"alpha_pattern": {Q: 64, V: 3}}, id="the backbone's names"),
        pytest.param(
            {"alpha_pattern": {r"(^|.*\.)encoder\..*\.q": 64, r"decoder\.block\.[01].*v": 2.5}},
            id="expressions",
        ),
        pytest.param({"alpha_pattern": {"block.0.*q": 7, "0.SelfAttention.v": 5}}, id="dots"),
        pytest.param({"alpha_pattern": {"k|q": 7}}, id="alternatives"),
        pytest.param({"alpha_pattern": {"v)|(q": 7}}, id="brackets of PEFT's own"),
        pytest.param(
            {
                "rank_pattern": {"SelfAttention.q": 2, r"EncDecAttention\.v": 6},
                "alpha_pattern": {"EncDecAttention.q": 3, "SelfAttention.v": -5},
                "use_rslora": True,
            },
            id="ranks and alphas",
        ),
        pytest.param(
            {
                "rank_pattern": {"{}" + Q: 2, "q": 3},
                "alpha_pattern": {"q": 9, "SelfAttention.q": 9},
            },
            id="several that agree",
        ),
        pytest.param({"target_modules": r".*(SelfAttention\.q|EncDecAttention\.v)"}, id="regex"),
        pytest.param({"target_modules": ["EncDecAttention.q", "{}" + Q]}, id="ends"),
        pytest.param({"exclude_modules": r".*decoder.*"}, id="excluded by expression"),
        pytest.param({"exclude_modules": ["EncDecAttention.q", "{}" + Q]}, id="excluded by name"),
        pytest.param({"layers_to_transform": [1]}, id="layers"),
        pytest.param({"layers_to_transform": 0, "layers_pattern": "block"}, id="layer of a list"),
        pytest.param(
            {"layers_to_transform": [1], "target_modules": ["v", "{}" + Q]}, id="layers and a name"
        ),
        pytest.param({"target_modules": ["k", "o", "wo"]}, id="k, o and wo"),
        pytest.param({"target_modules": ["wi_0", "DenseReluDense.wi_1"]}, id="gates"),
        pytest.param({"target_modules": ["q", "lm_head"]}, id="head"),
        pytest.param({"target_modules": r".*(lm_head|decoder.*\.wo)"}, id="head by expression"),
        pytest.param(
            {
                "target_modules": ["q", "k", "wo", "lm_head"],
                "rank_pattern": {"lm_head": 7, r"decoder\..*\.wo": 1},
                "alpha_pattern": {"lm_head": 2, "k": 5},
                "use_rslora": True,
            },
            id="ranks and alphas of others",
        ),
        pytest.param({"init_lora_weights": "mica"}, id="MiCA"),
        pytest.param({"init_lora_weights": "orthogonal"}, id="orthogonal"),
        pytest.param({"init_lora_weights": False, "lora_dropout": 0.3}, id="random start"),
        pytest.param({"bias": "none", "revision": "main", "inference_mode": True}, id="harmless"),
    ],
)
def test_an_update_is_what_peft_merges(
    config: dict[str, Any], front: str, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    text = json.dumps({"r": 4, "lora_alpha": 8, "target_modules": ["q", "v"], **config})
    placed = json.loads(text.replace("{}" + Q, front + Q))
    expected = save_trained(backbone, tmp_path / "peft", WRAPPERS[front], **placed)
    converted = convert(backbone, tmp_path / "peft", draft)
    assert_updates(converted, backbone, expected)
    unused = config.get("alpha_pattern", {}).get(f"^{V}") and front != ""
    assert len(converted.warnings) == bool(unused)


@pytest.mark.parametrize("style", ["v1.0", "v1.1"])
def test_all_linear_layers_and_a_head_that_may_be_tied(
    style: Style, draft: Draft, tmp_path: Path
) -> None:
    backbone = read_backbone(tiny_t5(tmp_path / "t5", style=style))
    every = [site.name for site in backbone.sites.values()]
    for name, targets, expected_sites in (
        ("all", "all-linear", every[:-1]),
        ("head", ["lm_head", "wi", "wi_1"], [n for n in every if n[-2:] in ("ad", "wi", "_1")]),
    ):
        expected = save_trained(backbone, tmp_path / name, bare, r=4, target_modules=targets)
        converted = convert(backbone, tmp_path / name, draft)
        assert list(converted.manifest.targets) == expected_sites
        assert_updates(converted, backbone, expected)
        assert converted.warnings == ()


def test_another_weight_of_the_head_is_refused(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    """PEFT saves the head's own weight beside factors for it; it may be another model's."""
    folder = tmp_path / "peft"
    save_trained(backbone, folder, bare, r=4, target_modules=["lm_head"])
    name = "base_model.model.lm_head.base_layer.weight"
    change_tensors(folder, lambda state: {**state, name: state[name].bfloat16()})
    assert convert(backbone, folder, draft).warnings == ()
    change_tensors(folder, lambda state: {**state, name: state[name] * 1.1})
    with pytest.raises(ConvertError, match=r"another weight than the backbone's lm_head\.weight"):
        convert(backbone, folder, draft)
    change_tensors(folder, lambda state: {**state, name: state[name][:500]})
    with pytest.raises(ConvertError, match="the vocabulary was changed"):
        convert(backbone, folder, draft)


@pytest.mark.parametrize("tokens", [512, 520], ids=["as they were", "resized"])
def test_embeddings_that_peft_saves_as_well(
    tokens: int, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    model: Any = load_model(backbone)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if tokens != 512:
            model.resize_token_embeddings(tokens)
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q"]))
        adapted.save_pretrained(tmp_path / "peft", save_embedding_layers=True)
    names = set(load_file(tmp_path / "peft" / "adapter_model.safetensors"))
    assert {f"base_model.model.{name}.weight" for name in ("shared", "lm_head")} < names
    if tokens == 512:
        assert len(convert(backbone, tmp_path / "peft", draft).manifest.targets) == 6
        return
    with pytest.raises(ConvertError, match="the vocabulary was changed"):
        convert(backbone, tmp_path / "peft", draft)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_of_16_bits_are_read_exactly(
    dtype: torch.dtype, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    folder = tmp_path / "peft"
    save_trained(backbone, folder, bare, r=4, lora_alpha=8, target_modules=["o"])
    change_tensors(folder, lambda state: {n: t.to(dtype) for n, t in state.items()})
    state = load_file(folder / "adapter_model.safetensors")
    for site, delta in read_adapter(convert(backbone, folder, draft).path, backbone).deltas.items():
        assert isinstance(delta, LowRankDelta)
        front = f"base_model.model.{site}"
        assert torch.equal(delta.A, state[f"{front}.lora_A.weight"].float())
        assert torch.equal(delta.B, state[f"{front}.lora_B.weight"].float() * 2)


def test_a_wrapper_may_be_called_as_parts_of_names_are(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    patterns = {f"^module.encoder.{Q}": 64, f"encoder.{V}": 3}
    folder = tmp_path / "peft"
    expected = save_trained(
        backbone, folder, twice, r=4, target_modules=["q", "v"], alpha_pattern=patterns
    )
    converted = convert(backbone, folder, draft)
    assert_updates(converted, backbone, expected)
    assert converted.warnings == ()


def test_overlapping_patterns_are_refused_where_peft_itself_forgets_their_order(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    overlapping = {f"t5.{Q}": 64, "SelfAttention.q": 16}  # save_pretrained sorts them
    folder = tmp_path / "peft"
    trained = save_trained(
        backbone, folder, in_t5, r=4, target_modules=["q"], alpha_pattern=overlapping
    )
    assert not torch.allclose(trained[Q], reloaded(backbone, folder, in_t5)[Q])
    with pytest.raises(ConvertError, match=r"has 'SelfAttention\.q' and 't5\.encoder"):
        convert(backbone, folder, draft)


def test_an_order_that_is_not_peft_s_is_obeyed(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    folder = tmp_path / "peft"
    save_trained(backbone, folder, in_t5, r=4, target_modules=["q"])
    set_fields(folder, alpha_pattern={f"t5.{Q}": 64, "SelfAttention.q": 16})
    assert_updates(convert(backbone, folder, draft), backbone, reloaded(backbone, folder, in_t5))


@pytest.mark.parametrize("saved", ["pissa", "olora"])
def test_converted_initialisations_are_plain_lora(
    saved: str, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    """PEFT's own way out: the difference to the first state, as a LoRA of twice the rank."""
    model = transformers.T5ForConditionalGeneration.from_pretrained(backbone.path)
    weight = model.get_submodule(Q).weight.detach().clone()
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q", "v"], init_lora_weights=saved)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(model, config)
        adapted.peft_config["default"].init_lora_weights = True
        adapted.save_pretrained(tmp_path / "start")
        adapted.peft_config["default"].init_lora_weights = saved
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data += 0.1
        adapted.save_pretrained(tmp_path / "changed")
        adapted.save_pretrained(
            tmp_path / "peft", path_initial_model_for_weight_conversion=tmp_path / "start"
        )
    with pytest.raises(ConvertError, match="changed the base"):
        convert(backbone, tmp_path / "changed", draft)
    converted = convert(backbone, tmp_path / "peft", draft)
    layer = model.get_submodule(Q)
    expected = layer.base_layer.weight + layer.get_delta_weight("default") - weight
    update = read_adapter(converted.path, backbone).deltas[Q].to_dense()
    torch.testing.assert_close(update, expected.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param({"target_modules": ["q", "shared"]}, "embedding was a target", id="embedding"),
        pytest.param(
            {"target_modules": ["q", "relative_attention_bias"]}, "embedding was", id="bias table"
        ),
        pytest.param(
            {"target_modules": ["q", "lm_head"], "ensure_weight_tying": True},
            "without ensure_weight_tying",
            id="a tied head",
        ),
        pytest.param({"modules_to_save": ["lm_head"]}, "modules_to_save is", id="saved modules"),
        pytest.param({"use_dora": True}, "use_dora is", id="DoRA"),
        pytest.param({"bias": "all"}, "bias is 'all'", id="bias"),
        pytest.param({"bias": "lora_only"}, "bias is 'lora_only'", id="bias of LoRA"),
        pytest.param({"trainable_token_indices": [5]}, "trainable_token", id="tokens"),
        pytest.param({"init_lora_weights": "pissa"}, "changed the base", id="PiSSA"),
        pytest.param({"init_lora_weights": "olora"}, "changed the base", id="OLoRA"),
        pytest.param({"velora_config": {"num_groups": 4}}, "velora_config is", id="VeLoRA"),
        pytest.param({"alora_invocation_tokens": [3]}, "alora_invocation", id="aLoRA"),
        pytest.param({"kasa_config": {}}, "kasa_config is", id="KaSA"),
        pytest.param({"use_bdlora": {"target_modules_bd_b": ["q", "v"]}}, "use_bdlora", id="BD"),
    ],
)
def test_what_peft_saves_of_other_methods_is_refused(
    config: dict[str, Any], message: str, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    save_trained(
        backbone, tmp_path / "peft", bare, **{"r": 4, "target_modules": ["q", "v"], **config}
    )
    with pytest.raises(ConvertError, match=message):
        convert(backbone, tmp_path / "peft", draft)


def test_a_lora_that_transformers_made_and_saved(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    model = transformers.T5ForConditionalGeneration.from_pretrained(backbone.path)
    config = peft.LoraConfig(
        r=4, target_modules=["q", "v"], alpha_pattern={r"^encoder\.block\.0.*q": 33}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.add_adapter(config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data += 0.1
        model.save_pretrained(tmp_path / "peft")
    expected = {
        target: model.get_submodule(target).get_delta_weight("default").detach()
        for target in backbone.targets
    }
    converted = convert(backbone, tmp_path / "peft", draft)
    assert_updates(converted, backbone, expected)
    assert converted.warnings == ()


def test_part_of_the_backbone_may_have_been_the_model(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    def decoder(model: nn.Module) -> nn.Module:
        return model.get_submodule("decoder")

    expected = save_trained(
        backbone,
        tmp_path / "peft",
        decoder,
        r=4,
        target_modules=r".*EncDecAttention\.(q|v)",
        alpha_pattern={"^block.0.*q": 64},
    )
    converted = convert(backbone, tmp_path / "peft", draft)
    assert_updates(converted, backbone, expected)
    assert converted.warnings == ()
