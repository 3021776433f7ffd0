from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from factories import tiny_t5
from foreign_checkpoints import save_peft
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.convert.draft import Draft
from jumplora_adapters.convert.form import Form
from jumplora_adapters.convert.patterns import read_strengths
from jumplora_adapters.convert.peft import convert_peft, format_of
from jumplora_adapters.convert.peft_config import read_peft_config
from jumplora_adapters.delta import LowRankDelta
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.format import read_adapter
from peft_folders import convert

Q = "encoder.block.0.layer.0.SelfAttention.q"
K_OF_PEFT = "base_model.model.encoder.block.0.layer.0.SelfAttention.k.lora_A.weight"


def test_factors_are_kept_with_the_scale_in_b(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    factors = save_peft(tmp_path / "peft", backbone, rank=4, lora_alpha=8)
    converted = convert_peft(tmp_path / "peft", tmp_path / "a.safetensors", draft, backbone, Form())
    manifest = converted.manifest
    assert (manifest.kind, manifest.method) == ("lowrank", "lora")
    assert (manifest.rank, manifest.alpha) == (4, 8.0)
    for name, delta in read_adapter(converted.path, backbone).deltas.items():
        assert isinstance(delta, LowRankDelta)
        assert torch.equal(delta.A, factors[name][0])
        assert torch.equal(delta.B, factors[name][1] * 2.0)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"lora_alpha": 8}, id="alpha over r"),
        pytest.param({"lora_alpha": 8, "use_rslora": True}, id="alpha over root of r"),
        pytest.param(
            {
                "alpha_pattern": {"EncDecAttention.q": 3, "v": 5},
                "rank_pattern": {"SelfAttention.v": 2},
            },
            id="patterns",
        ),
    ],
)
def test_delta_is_what_peft_merges(config: dict[str, Any], draft: Draft, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import T5ForConditionalGeneration

    backbone = read_backbone(tiny_t5(tmp_path / "t5"))
    model = T5ForConditionalGeneration.from_pretrained(backbone.path)
    before = {name: model.get_submodule(name).weight.detach().clone() for name in backbone.targets}
    generator = torch.Generator().manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, about its own use of other libraries
        adapted = peft.get_peft_model(
            model, peft.LoraConfig(r=4, target_modules=["q", "v"], **config)
        )
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator)
        adapted.save_pretrained(tmp_path / "peft")
        merged = adapted.merge_and_unload()
    converted = convert_peft(tmp_path / "peft", tmp_path / "a.safetensors", draft, backbone, Form())
    deltas = read_adapter(converted.path, backbone).deltas
    assert set(deltas) == set(backbone.targets)
    for name, weight in before.items():
        expected = merged.get_submodule(name).weight.detach() - weight
        torch.testing.assert_close(deltas[name].to_dense(), expected, rtol=1e-4, atol=1e-5)


def test_masked_and_pruned_when_asked(backbone: Backbone, draft: Draft, tmp_path: Path) -> None:
    factors = save_peft(tmp_path / "peft", backbone, lora_alpha=8)
    form = Form(kind="masked", density=0.1, dtype=torch.float16, factors="keep")
    converted = convert_peft(tmp_path / "peft", tmp_path / "a.safetensors", draft, backbone, form)
    assert converted.manifest.kind == "masked"
    assert converted.density == pytest.approx(0.1, abs=0.001)
    adapter = read_adapter(converted.path, backbone)
    assert torch.equal(adapter.factors[Q][0], factors[Q][0])
    dense = adapter.deltas[Q].to_dense()
    product = 2 * factors[Q][1] @ factors[Q][0]
    torch.testing.assert_close(dense, product * (dense != 0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param(
            {"peft_type": "LOHA"},
            "these are converted: LORA.*merge_and_unload",
            id="another method",
        ),
        pytest.param({"use_dora": True}, "use_dora is True", id="DoRA"),
        pytest.param({"bias": "all"}, "bias is 'all'", id="bias"),
        pytest.param({"lora_bias": True}, "lora_bias", id="bias of B"),
        pytest.param({"modules_to_save": ["lm_head"]}, "modules_to_save", id="saved modules"),
        pytest.param({"fan_in_fan_out": True}, "transposed", id="transposed"),
        pytest.param({"init_lora_weights": "pissa"}, "changed the base", id="PiSSA"),
        pytest.param({"layer_replication": [[0, 4]]}, "layer_replication", id="replication"),
        pytest.param({"trainable_token_indices": [1]}, "trainable_token", id="tokens"),
        pytest.param({"variant_of_2030": {"x": 1}}, "variant_of_2030", id="not known yet"),
        pytest.param({"alpha_pattern": [1]}, "alpha_pattern is", id="pattern as list"),
        pytest.param({"alpha_pattern": {"q": "4"}}, "expected a number", id="alpha as text"),
        pytest.param({"lora_alpha": None}, "lora_alpha is None", id="no alpha"),
        pytest.param({"lora_alpha": 0}, "not zero", id="alpha of zero"),
    ],
)
def test_configurations_that_are_not_plain_lora(
    config: dict[str, Any], message: str, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    save_peft(tmp_path / "peft", backbone, **config)
    out = tmp_path / "a.safetensors"
    with pytest.raises(ConvertError, match=message):
        convert_peft(tmp_path / "peft", out, draft, backbone, Form())
    assert not out.exists()


@pytest.mark.parametrize(
    "config",
    [
        {
            "lora_dropout": 0.1,
            "task_type": None,
            "peft_version": "9",
            "future": None,
            "other": False,
        },
        {"init_lora_weights": "gaussian"},
        {"target_modules": ["q"], "layers_to_transform": [0], "layers_pattern": "block"},
    ],
    ids=["empty unknown fields", "initialisation", "choice of modules"],
)
def test_harmless_configurations(
    config: dict[str, Any], backbone: Backbone, tmp_path: Path
) -> None:
    save_peft(tmp_path / "peft", backbone, **config)
    found = read_peft_config(tmp_path / "peft" / "adapter_config.json")
    assert format_of(found).title == "LoRA"
    assert read_strengths(found).alpha == 8.0


@pytest.mark.parametrize(
    "content", ["{", "[1]", "[" * 100_000, "\\xff", '{"a": ' + " " * (1 << 20)]
)
def test_broken_configurations(content: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(ConvertError):
        read_peft_config(tmp_path / "adapter_config.json")
    with pytest.raises(ConvertError, match="not a PEFT folder"):
        read_peft_config(tmp_path / "nowhere" / "adapter_config.json")


def _change(folder: Path, **changes: torch.Tensor | None) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {f"base_model.model.{Q}.lora_B.weight": None},
            "has lora_A.weight and no lora_B.weight",
            id="no B",
        ),
        pytest.param(
            {f"base_model.model.{Q}.lora_magnitude_vector": torch.ones(4)},
            "none of LoRA's: lora_A.weight, lora_B.weight",
            id="magnitude",
        ),
        pytest.param(
            {
                K_OF_PEFT: torch.ones(4, 32),
                K_OF_PEFT.replace("lora_A", "lora_B"): torch.ones(32, 4),
            },
            "1 modules that adapter_config.json does not choose",
            id="k",
        ),
        pytest.param(
            {f"{Q}.lora_A.weight": torch.ones(4, 32), f"{Q}.lora_B.weight": torch.ones(32, 4)},
            "both mean",
            id="twice",
        ),
        pytest.param(
            {f"base_model.model.{Q}.lora_A.default.weight": torch.ones(4, 32)},
            "two lora_A.weight",
            id="two A",
        ),
        pytest.param(
            {f"base_model.model.{Q}.lora_B.bias": torch.ones(32)}, "none of LoRA's", id="bias"
        ),
        pytest.param(
            {f"base_model.model.{Q}.lora_A.weight": torch.full((4, 32), torch.nan)}, "NaN", id="nan"
        ),
    ],
)
def test_tensors_that_do_not_fit(
    changes: dict[str, Any], message: str, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    save_peft(tmp_path / "peft", backbone)
    _change(tmp_path / "peft", **changes)
    with pytest.raises(ConvertError, match=message):
        convert(backbone, tmp_path / "peft", draft)


def test_names_of_a_state_dict_are_read_as_well(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    factors = save_peft(tmp_path / "peft", backbone)
    tensors = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    save_file(
        {name.replace(".weight", ".default.weight"): tensor for name, tensor in tensors.items()},
        tmp_path / "peft" / "adapter_model.safetensors",
    )
    converted = convert(backbone, tmp_path / "peft", draft)
    delta = read_adapter(converted.path, backbone).deltas[Q]
    assert isinstance(delta, LowRankDelta)
    assert torch.equal(delta.A, factors[Q][0])


def test_pickled_weights_are_refused_with_advice(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    save_peft(tmp_path / "peft", backbone)
    weights = tmp_path / "peft" / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ConvertError, match="safe_serialization=True"):
        convert(backbone, tmp_path / "peft", draft)
    weights.with_suffix(".bin").unlink()
    with pytest.raises(ConvertError, match="no adapter_model"):
        convert(backbone, tmp_path / "peft", draft)
    weights.write_bytes(b"\x10" * 100)
    with pytest.raises(ConvertError, match="not a sound safetensors file"):
        convert(backbone, tmp_path / "peft", draft)


def test_config_is_json_as_peft_writes_it(backbone: Backbone, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q", "v"]).to_dict()
    config["target_modules"] = sorted(config["target_modules"])
    (tmp_path / "adapter_config.json").write_text(json.dumps(config, default=str))
    assert read_strengths(read_peft_config(tmp_path / "adapter_config.json")).alpha == 16.0
