"""Every field of the installed PEFT's configurations has been decided on."""

from __future__ import annotations

import dataclasses

import pytest

from jumplora_adapters.convert.peft import FORMATS, format_of
from jumplora_adapters.convert.peft_format import PeftFormat
from jumplora_adapters.errors import ConvertError

peft = pytest.importorskip("peft")

CONFIGS = {
    "LORA": peft.LoraConfig,
    "SHIRA": peft.ShiraConfig,
    "SUPERTUNING": peft.SupertuningConfig,
}
FIELDS = {field.name: field for field in dataclasses.fields(peft.LoraConfig)}
REFUSED = [
    pytest.param(form, name, id=f"{form.title} {name}")
    for form in FORMATS.values()
    for name in sorted(form.fields.refused)
]


@pytest.mark.parametrize("peft_type", FORMATS)
def test_each_field_is_obeyed_harmless_or_refused(peft_type: str) -> None:
    known = FORMATS[peft_type].fields
    decided = [*known.obeyed, *known.harmless, *known.refused]
    assert len(decided) == len(set(decided))
    if peft_type in CONFIGS:  # the others are of forks
        existing = {field.name for field in dataclasses.fields(CONFIGS[peft_type])}
        assert set(decided) == existing, "decide about it in the format's file"


@pytest.mark.parametrize("peft_type", CONFIGS)
def test_a_configuration_without_any_choice_is_plain(peft_type: str) -> None:
    config = CONFIGS[peft_type]().to_dict()
    assert format_of({**config, "peft_type": config["peft_type"].value}) is FORMATS[peft_type]


@pytest.mark.parametrize(("form", "name"), REFUSED)
def test_a_refused_field_is_named_with_its_reason(form: PeftFormat, name: str) -> None:
    with pytest.raises(ConvertError) as caught:
        format_of({"peft_type": form.peft_type, name: {"some": "value"}})
    assert str(caught.value).startswith(f"{name} is ")
    assert f": {form.fields.refused[name]}, and a {form.title} with it is not" in str(caught.value)


@pytest.mark.parametrize("name", [n for n, field in FIELDS.items() if "variant" in str(field)])
def test_variants_of_lora_are_refused(name: str) -> None:
    """PEFT marks the fields that change what the layers compute."""
    assert name in FORMATS["LORA"].fields.refused or name == "init_lora_weights"


@pytest.mark.parametrize(
    ("init", "message"),
    [
        pytest.param("pissa", "changed the base", id="PiSSA"),
        pytest.param("pissa_niter_16", "changed the base", id="fast PiSSA"),
        pytest.param("olora", "path_initial_model", id="OLoRA"),
        pytest.param("corda", "path_initial_model", id="CorDA"),
        pytest.param("lora_ga", "path_initial_model", id="LoRA-GA"),
        pytest.param("loftq", "quantized base", id="LoftQ"),
        pytest.param("variant of 2030", "not known here", id="not known yet"),
        pytest.param(1, "not known here", id="a number"),
        pytest.param(["gaussian"], "not known here", id="a list"),
    ],
)
@pytest.mark.parametrize("peft_type", ["LORA", "ROSA"])
def test_initialisations_that_change_the_base(peft_type: str, init: object, message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        format_of({"peft_type": peft_type, "init_lora_weights": init})


@pytest.mark.parametrize("given", ["LOHA", "lora", None, 3, ["LORA"]], ids=str)
def test_another_type_is_refused_with_those_that_are_taken(given: object) -> None:
    with pytest.raises(ConvertError, match="LORA, SHIRA, SUPERTUNING, ROSA, SFT"):
        format_of({"peft_type": given})
