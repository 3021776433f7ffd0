"""Which modules a configuration promises, against PEFT's own function."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.peft_config import read_peft_config, targeting_of
from jumplora_adapters.convert.targeting import Targeting, modules_of
from jumplora_adapters.errors import ConvertError

tuners_utils = pytest.importorskip("peft.tuners.tuners_utils")
peft = pytest.importorskip("peft")

NAMES = [
    f"{front}{stack}.block.{block}.layer.{layer}.{module}.{last}"
    for front in ("", "t5.", "models.3.t5.")
    for stack in ("encoder", "decoder")
    for block in (0, 1, 10)
    for layer, module in enumerate(("SelfAttention", "EncDecAttention"))
    for last in ("q", "v", "o")
] + ["q", "lm_head", "block.1.q", "shared"]
FULL = "t5.encoder.block.1.layer.0.SelfAttention.q"


def _by_peft(**fields: Any) -> set[str]:
    config = peft.LoraConfig(**fields)
    check = tuners_utils.check_target_module_exists
    excluded = tuners_utils._ExcludedModule
    return {name for name in NAMES if (it := check(config, name)) and not isinstance(it, excluded)}


def _as_json(**fields: Any) -> Targeting:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter_config.json"
        path.write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 8, **fields}))
        return targeting_of(read_peft_config(path))


ENDS = ["q", "v", "SelfAttention.q", "0.q", FULL, "encoder", ".q", "", "lf", "lm_head"]
CHOICE = st.one_of(
    st.lists(st.sampled_from(ENDS), max_size=4),
    st.sampled_from(
        [".*q", r".*\.(q|v)$", "q|v", r"t5\..*", r"(?i).*ENCODER.*Q", FULL, "", r".*decoder.*"]
    ),
)


@settings(max_examples=25, deadline=None)
@given(
    targets=CHOICE,
    excluded=st.one_of(st.none(), CHOICE),
    layers=st.sampled_from([None, 0, 1, [], [0], [1, 10], [3], [-1]]),
    pattern=st.sampled_from(
        [None, "block", "layer", ["layer", "block"], [], "", "bl.ck", "models", ["none", "t5"]]
    ),
)
def test_promised_modules_are_peft_s(
    targets: Any, excluded: Any, layers: Any, pattern: Any
) -> None:
    fields = {"target_modules": targets, "exclude_modules": excluded}
    if layers is not None:
        fields |= {"layers_to_transform": layers, "layers_pattern": pattern}
    try:
        expected = _by_peft(**fields)
    except ValueError:  # PEFT does not take these together
        with pytest.raises(ConvertError):
            _as_json(**fields)
        return
    assert _as_json(**fields).promised(NAMES) == expected


def test_the_default_is_peft_s_for_t5() -> None:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as MAPPING

    assert MAPPING["t5"] == MAPPING["mt5"] == list(Targeting(("q", "v")).targets)
    assert _as_json(target_modules=None).promised(NAMES) == _by_peft(target_modules=["q", "v"])


@pytest.mark.parametrize("style", ["v1.0", "v1.1", "mt5"])
def test_all_linear_is_what_peft_makes_of_it(
    style: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from transformers import AutoModelForSeq2SeqLM

    from factories import tiny_t5
    from jumplora_adapters.backbone import read_backbone

    backbone = read_backbone(tiny_t5(tmp_path_factory.mktemp("t5"), style=style))
    config = peft.LoraConfig(target_modules="all-linear")
    model = AutoModelForSeq2SeqLM.from_pretrained(backbone.path)
    expected = tuners_utils._maybe_include_all_linear_layers(config, model).target_modules
    assert Targeting("all-linear").promised(modules_of(backbone)) == set(expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"target_modules": {"q": 1}}, "target_modules is", id="an object"),
        pytest.param({"target_modules": ["q", 1]}, "list of names", id="a number in a list"),
        pytest.param({"target_modules": 7}, "target_modules is 7", id="a number"),
        pytest.param({"target_modules": ["q"] * 9000}, "at most 8192", id="too many"),
        pytest.param({"exclude_modules": [None]}, "exclude_modules", id="null in a list"),
        pytest.param({"layers_to_transform": "0"}, "numbers of layers", id="layer as text"),
        pytest.param({"layers_to_transform": [0, True]}, "numbers of layers", id="true as layer"),
        pytest.param({"layers_pattern": "block"}, "without layers_to_transform", id="no layers"),
    ],
)
def test_fields_of_another_type_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        _as_json(**fields)


def test_modules_of_a_checkpoint_are_those_that_can_be_targets(backbone: Backbone) -> None:
    modules = modules_of(backbone)
    assert set(backbone.targets) < set(modules)
    assert "encoder.block.0.layer.0.SelfAttention.k" in modules
    assert "lm_head" in modules
    assert not [name for name in modules if "norm" in name]


@pytest.mark.parametrize("patterns", [(), ("block",)], ids=["any list", "a list's name"])
def test_a_number_of_thousands_of_digits_is_no_layer(patterns: tuple[str, ...]) -> None:
    names = [f"encoder.block.{'1' * 5000}.q", "encoder.block.1.q"]
    promised = Targeting(("q",), layers=frozenset({1}), layers_patterns=patterns).promised(names)
    assert promised == {"encoder.block.1.q"}
