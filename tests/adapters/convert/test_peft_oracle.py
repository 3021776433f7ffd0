"""Folders that PEFT saved, against the updates of the model that it saved them from."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.draft import Converted, Draft
from jumplora_adapters.convert.form import Form
from jumplora_adapters.convert.peft import convert_peft
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.format import read_adapter

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

Q = "encoder.block.0.layer.0.SelfAttention.q"
V = "decoder.block.1.layer.1.EncDecAttention.v"


class Around(nn.Module):
    """A model that holds T5 under a name of its own."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.add_module(name, model)


def _bare(model: nn.Module) -> nn.Module:
    return model


def _in_t5(model: nn.Module) -> nn.Module:
    return Around(model, "t5")


def _twice(model: nn.Module) -> nn.Module:
    return Around(Around(model, "encoder"), "module")


WRAPPERS = {"": _bare, "t5.": _in_t5}


def _train(
    backbone: Backbone, folder: Path, wrap: Callable[[nn.Module], nn.Module], **config: Any
) -> dict[str, Tensor]:
    """Save a LoRA with random factors; target -> the update that PEFT would merge."""
    model = transformers.T5ForConditionalGeneration.from_pretrained(backbone.path)
    generator = torch.Generator().manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, about patterns without a match among others
        adapted = peft.get_peft_model(wrap(model), peft.LoraConfig(**config))
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator)
        adapted.save_pretrained(folder)
        return {
            target: module.get_delta_weight("default").detach()
            for target in backbone.targets
            if hasattr(module := model.get_submodule(target), "get_delta_weight")
        }


def _reloaded(
    backbone: Backbone, folder: Path, wrap: Callable[[nn.Module], nn.Module]
) -> dict[str, Tensor]:
    model = transformers.T5ForConditionalGeneration.from_pretrained(backbone.path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft.PeftModel.from_pretrained(wrap(model), folder)
    return {
        target: module.get_delta_weight("default").detach()
        for target in backbone.targets
        if hasattr(module := model.get_submodule(target), "get_delta_weight")
    }


def _convert(backbone: Backbone, folder: Path, draft: Draft) -> Converted:
    return convert_peft(folder, folder.parent / "a.safetensors", draft, backbone, Form())


def _compare(converted: Converted, backbone: Backbone, expected: dict[str, Tensor]) -> None:
    deltas = read_adapter(converted.path, backbone).deltas
    assert set(deltas) == set(expected)
    for name, delta in deltas.items():
        torch.testing.assert_close(delta.to_dense(), expected[name], rtol=1e-4, atol=1e-3)


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
    expected = _train(backbone, tmp_path / "peft", WRAPPERS[front], **placed)
    converted = _convert(backbone, tmp_path / "peft", draft)
    _compare(converted, backbone, expected)
    unused = config.get("alpha_pattern", {}).get(f"^{V}") and front != ""
    assert len(converted.warnings) == bool(unused)


def test_a_wrapper_may_be_called_as_parts_of_names_are(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    patterns = {f"^module.encoder.{Q}": 64, f"encoder.{V}": 3}
    folder = tmp_path / "peft"
    expected = _train(
        backbone, folder, _twice, r=4, target_modules=["q", "v"], alpha_pattern=patterns
    )
    converted = _convert(backbone, folder, draft)
    _compare(converted, backbone, expected)
    assert converted.warnings == ()


def test_overlapping_patterns_are_refused_where_peft_itself_forgets_their_order(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    overlapping = {f"t5.{Q}": 64, "SelfAttention.q": 16}  # save_pretrained sorts them
    folder = tmp_path / "peft"
    trained = _train(backbone, folder, _in_t5, r=4, target_modules=["q"], alpha_pattern=overlapping)
    assert not torch.allclose(trained[Q], _reloaded(backbone, folder, _in_t5)[Q])
    with pytest.raises(ConvertError, match=r"has 'SelfAttention\.q' and 't5\.encoder"):
        _convert(backbone, folder, draft)


def test_an_order_that_is_not_peft_s_is_obeyed(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    folder = tmp_path / "peft"
    _train(backbone, folder, _in_t5, r=4, target_modules=["q"])
    _set(folder, alpha_pattern={f"t5.{Q}": 64, "SelfAttention.q": 16})
    _compare(_convert(backbone, folder, draft), backbone, _reloaded(backbone, folder, _in_t5))


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
        _convert(backbone, tmp_path / "changed", draft)
    converted = _convert(backbone, tmp_path / "peft", draft)
    layer = model.get_submodule(Q)
    expected = layer.base_layer.weight + layer.get_delta_weight("default") - weight
    update = read_adapter(converted.path, backbone).deltas[Q].to_dense()
    torch.testing.assert_close(update, expected.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param({"target_modules": ["q", "k"]}, "none of the backbone's targets", id="k"),
        pytest.param({"target_modules": "all-linear"}, "none of the backbone's", id="all linear"),
        pytest.param({"target_modules": ["q", "shared"]}, "neither lora_A", id="embedding"),
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
    _train(backbone, tmp_path / "peft", _bare, **{"r": 4, "target_modules": ["q", "v"], **config})
    with pytest.raises(ConvertError, match=message):
        _convert(backbone, tmp_path / "peft", draft)


def test_part_of_the_backbone_may_have_been_the_model(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    def decoder(model: nn.Module) -> nn.Module:
        return model.get_submodule("decoder")

    expected = _train(
        backbone,
        tmp_path / "peft",
        decoder,
        r=4,
        target_modules=r".*EncDecAttention\.(q|v)",
        alpha_pattern={"^block.0.*q": 64},
    )
    converted = _convert(backbone, tmp_path / "peft", draft)
    _compare(converted, backbone, expected)
    assert converted.warnings == ()


def _set(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def _change(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "adapter_model.safetensors"
    state = {name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}
    save_file(state, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("config", "change", "warning"),
    [
        pytest.param(
            {},
            lambda state: {n: t for n, t in state.items() if ".q." in n},
            "chooses 12 modules and adapter_model.safetensors lacks 6 of them, such as"
            " 't5.decoder.block.0.layer.0.SelfAttention.v'",
            id="q only",
        ),
        pytest.param(
            {"alpha_pattern": {"block.1.*q": 64}},
            lambda state: {n: t for n, t in state.items() if "encoder.block.0." in n},
            "alpha_pattern: 1 of its patterns match no module of the file, such as 'block.1.*q'",
            id="a pattern for what is missing",
        ),
        pytest.param(
            {"rank_pattern": {Q.replace("encoder", "encodr"): 9}},
            dict,
            "rank_pattern: 1 of its patterns match no module",
            id="a misspelt pattern",
        ),
        pytest.param(
            {"target_modules": ["q", "v", "wo"]},
            dict,
            "lacks 4 of them, such as 't5.decoder.block.0.layer.2.DenseReluDense.wo'",
            id="promised modules that no adapter can have",
        ),
        pytest.param(
            {"target_modules": "all-linear"}, dict, "lacks 24 of them", id="all linear layers"
        ),
        pytest.param(
            {},
            lambda state: {n: t * 0 if "lora_B" in n else t for n, t in state.items()},
            "it changes nothing: it is the bare backbone",
            id="B is zero",
        ),
        pytest.param(
            {},
            lambda state: {n: t * 0 if "lora_A" in n else t for n, t in state.items()},
            "it changes nothing",
            id="A is zero",
        ),
        pytest.param(
            {},
            lambda state: {n: t * 0 if f"{Q}.lora_B" in n else t for n, t in state.items()},
            f"1 of its 12 modules change nothing, such as {Q}",
            id="one B is zero",
        ),
        pytest.param(
            {"base_model_name_or_path": "google/flan-t5-large"},
            dict,
            "base_model_name_or_path is 'google/flan-t5-large', the backbone is 'tiny'",
            id="another base model",
        ),
        pytest.param({"task_type": "SEQ_CLS"}, dict, "task_type is 'SEQ_CLS'", id="another head"),
    ],
)
def test_warnings(
    config: dict[str, Any],
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    warning: str,
    backbone: Backbone,
    draft: Draft,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "peft"
    _train(backbone, folder, _in_t5, r=4, target_modules=["q", "v"])
    _change(folder, change)
    _set(folder, **config)
    converted = _convert(backbone, folder, draft)
    assert any(warning in text for text in converted.warnings), converted.warnings
    _compare(
        converted,
        backbone,
        {n: t for n, t in _reloaded(backbone, folder, _in_t5).items() if n in _held(converted)},
    )


def _held(converted: Converted) -> tuple[str, ...]:
    return converted.manifest.targets


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        pytest.param({"target_modules": ["q"]}, dict, "6 modules that .* not choose", id="less"),
        pytest.param({"exclude_modules": r".*\.v"}, dict, "does not choose", id="excluded"),
        pytest.param({"layers_to_transform": [0]}, dict, "does not choose", id="another layer"),
        pytest.param({"target_modules": []}, dict, "does not choose", id="none"),
        pytest.param({"r": 8}, dict, "have rank 4, .* says 8 by r", id="another rank"),
        pytest.param(
            {"rank_pattern": {"q": 2}}, dict, "says 2 by rank_pattern 'q'", id="rank of a pattern"
        ),
        pytest.param({"alpha_pattern": {"(": 2}}, dict, "not a regular", id="no expression"),
        pytest.param({"alpha_pattern": {"q": 0}}, dict, "not zero", id="alpha of zero"),
        pytest.param(
            {"init_lora_weights": False},
            lambda state: {n: t for n, t in state.items() if ".q." in n},
            "random numbers at each load",
            id="random numbers for what is missing",
        ),
        pytest.param(
            {"alpha_pattern": {f"^t5.{Q}": 64}},
            lambda state: {n.replace("base_model.model.", "model."): t for n, t in state.items()},
            "do not begin with base_model.model.",
            id="a pattern for names that are not in the file",
        ),
        pytest.param(
            {},
            lambda state: {n.replace(".t5.", ".") if Q in n else n: t for n, t in state.items()},
            "as if they were of several models",
            id="names of two models",
        ),
    ],
)
def test_what_would_have_other_numbers_is_refused(
    config: dict[str, Any],
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    message: str,
    backbone: Backbone,
    draft: Draft,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "peft"
    _train(backbone, folder, _in_t5, r=4, target_modules=["q", "v"])
    _change(folder, change)
    _set(folder, **config)
    with pytest.raises(ConvertError, match=message):
        _convert(backbone, folder, draft)
