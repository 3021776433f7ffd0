"""PEFT folders that contradict themselves or the backbone: refused, or converted with a warning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.draft import Draft
from jumplora_adapters.errors import ConvertError
from peft_folders import (
    assert_updates,
    change_tensors,
    convert,
    in_t5,
    reloaded,
    save_trained,
    set_fields,
)

Q = "encoder.block.0.layer.0.SelfAttention.q"


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
            id="a kind of module",
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
    save_trained(backbone, folder, in_t5, r=4, target_modules=["q", "v"])
    change_tensors(folder, change)
    set_fields(folder, **config)
    converted = convert(backbone, folder, draft)
    assert any(warning in text for text in converted.warnings), converted.warnings
    assert_updates(
        converted,
        backbone,
        {
            n: t
            for n, t in reloaded(backbone, folder, in_t5).items()
            if n in converted.manifest.targets
        },
    )


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
    save_trained(backbone, folder, in_t5, r=4, target_modules=["q", "v"])
    change_tensors(folder, change)
    set_fields(folder, **config)
    with pytest.raises(ConvertError, match=message):
        convert(backbone, folder, draft)


@pytest.mark.parametrize(
    "front", ["", "model.", "base_model.model.base_model.model."], ids=["none", "another", "two"]
)
def test_names_that_peft_would_not_load_are_told(
    front: str, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    folder = tmp_path / "peft"
    save_trained(backbone, folder, in_t5, r=4, target_modules=["q", "v"])
    change_tensors(
        folder, lambda state: {n.replace("base_model.model.", front): t for n, t in state.items()}
    )
    (warning,) = convert(backbone, folder, draft).warnings
    assert "12 names in adapter_model.safetensors" in warning
    assert "PEFT itself would leave their modules as they are" in warning


@pytest.mark.parametrize(
    ("dropped", "asks"),
    [
        pytest.param("block.1.", True, id="last layers"),
        pytest.param("decoder.block.1.", True, id="last layer of one stack"),
        pytest.param("block.0.", False, id="first layers"),
        pytest.param("block.1.layer.0.SelfAttention.q", False, id="a part of the last layer"),
        pytest.param("encoder.", False, id="a whole stack"),
    ],
)
def test_a_backbone_with_fewer_layers_is_asked_about(
    dropped: str,
    asks: bool,
    backbone: Backbone,
    draft: Draft,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "peft"
    save_trained(backbone, folder, in_t5, r=4, target_modules=["q", "v"])
    change_tensors(folder, lambda state: {n: t for n, t in state.items() if dropped not in n})
    converted = convert(backbone, folder, draft)
    (warning,) = converted.warnings
    assert "keep the backbone's weights" in warning
    assert ("was it trained on a T5 with fewer layers?" in warning) == asks
    assert converted.manifest.training["warnings"] == [warning], "who looks later sees it too"


def test_layers_that_were_chosen_are_not_asked_about(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    folder = tmp_path / "peft"
    save_trained(backbone, folder, in_t5, r=4, target_modules=["q", "v"], layers_to_transform=[0])
    converted = convert(backbone, folder, draft)
    assert converted.warnings == ()
    assert "warnings" not in converted.manifest.training


def test_shapes_say_that_a_backbone_is_another_one(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    """Before the modules are counted: of those that are missing it would say too much."""
    folder = tmp_path / "peft"
    save_trained(backbone, folder, in_t5, r=4, target_modules=["q", "v"])
    set_fields(folder, init_lora_weights=False)
    change_tensors(
        folder,
        lambda state: {
            n: t[:, 1:] if "lora_A" in n else t for n, t in state.items() if "block.1." not in n
        },
    )
    with pytest.raises(ConvertError, match="belongs to another backbone"):
        convert(backbone, folder, draft)
