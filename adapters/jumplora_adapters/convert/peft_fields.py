"""Fields of adapter_config.json: each is obeyed, harmless or refused.

PEFT grows a field for every variant of a method. A field that a format's table does not list may
change what an adapter computes, so anything but an empty value in it is refused. A test compares
the tables with the fields of the installed PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jumplora_adapters.convert.config_values import MAX_SHOWN, said
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.printable import shown

# These leave the base weights alone.
PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica")
MERGED_IS_SERVED = (
    "serve the merged model as a backbone of its own (`jumplora serve --backbone FOLDER`)"
)
MERGE_ADVICE = (
    f"train without it, or, where PEFT can merge the adapter (merge_and_unload), {MERGED_IS_SERVED}"
)
_EMPTY: tuple[object, ...] = (None, False, 0, "", [], {})


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one format; of harmless and refused ones the reason."""

    obeyed: frozenset[str]
    harmless: Mapping[str, str]
    refused: Mapping[str, str]


COMMON = Fields(
    obeyed=frozenset({"base_model_name_or_path", "peft_type", "target_modules", "task_type"}),
    harmless={
        "auto_mapping": "names the Python class of the model",
        "inference_mode": "says whether parameters are trainable",
        "peft_version": "says what wrote the file",
        "revision": "belongs to the name of the base model",
    },
    refused={"modules_to_save": "whole modules were trained beside the adapter"},
)
NOT_TRANSPOSED = {"fan_in_fan_out": "T5's layers are not stored transposed"}


def fields(
    obeyed: set[str], harmless: Mapping[str, str], refused: Mapping[str, str] | None = None
) -> Fields:
    """A format's own fields and those that all have."""
    return Fields(
        obeyed=COMMON.obeyed | obeyed,
        harmless={**COMMON.harmless, **harmless},
        refused={**COMMON.refused, **(refused or {})},
    )


def check_fields(config: Mapping[str, object], known: Fields, method: str) -> None:
    """Raise ConvertError for the first field that says that this is not plain `method`."""
    if config.get("bias", "none") not in ("none", None):
        raise ConvertError(
            f"bias is {said(config['bias'])}: only adapters of linear layers are converted, and"
            f" T5's relative position bias would be trained as well; {MERGE_ADVICE}"
        )
    for name, value in config.items():
        if name == "bias" or name in known.obeyed or name in known.harmless or value in _EMPTY:
            continue
        reason = known.refused.get(name, "this field is not known here")
        raise ConvertError(
            f"{shown(name, MAX_SHOWN)} is {said(value)}: {reason}, and a {method} with it is not"
            f" converted; {MERGE_ADVICE}"
        )
    if "init_lora_weights" in known.obeyed:
        _check_init(config.get("init_lora_weights", True))


def _check_init(init: object) -> None:
    if init is None or isinstance(init, bool):
        return
    if isinstance(init, str) and init.lower() in PLAIN_INITS:
        return
    if init == "loftq":
        raise ConvertError(
            "init_lora_weights is 'loftq', which changed the base weights: the adapter fits the"
            " quantized base it was trained with and no other"
        )
    raise ConvertError(
        f"init_lora_weights is {said(init)}, which changed the base weights or is not known here:"
        " save the adapter with path_initial_model_for_weight_conversion first (PiSSA, OLoRA,"
        " CorDA, LoRA-GA)"
    )
