"""Every field of the installed PEFT's LoraConfig has been decided on."""

from __future__ import annotations

import dataclasses

import pytest

from jumplora_adapters.convert.peft_fields import HARMLESS, OBEYED, REFUSED, check_fields
from jumplora_adapters.errors import ConvertError

peft = pytest.importorskip("peft")

FIELDS = {field.name: field for field in dataclasses.fields(peft.LoraConfig)}


def test_each_field_is_obeyed_harmless_or_refused() -> None:
    decided = [*OBEYED, *HARMLESS, *REFUSED]
    assert len(decided) == len(set(decided))
    assert set(decided) == set(FIELDS), "decide about it in convert/peft_fields.py"


def test_a_configuration_without_any_choice_is_plain_lora() -> None:
    config = peft.LoraConfig().to_dict()
    check_fields({**config, "peft_type": str(config["peft_type"].value)})


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_field_is_named_with_its_reason(name: str) -> None:
    with pytest.raises(ConvertError, match=f"^{name} is .*: {REFUSED[name]}; only plain LoRA"):
        check_fields({"peft_type": "LORA", name: {"some": "value"}})


@pytest.mark.parametrize("name", [n for n, field in FIELDS.items() if "variant" in str(field)])
def test_variants_of_lora_are_refused(name: str) -> None:
    """PEFT marks the fields that change what the layers compute."""
    assert name in REFUSED or name == "init_lora_weights"


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
def test_initialisations_that_change_the_base(init: object, message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        check_fields({"peft_type": "LORA", "init_lora_weights": init})
