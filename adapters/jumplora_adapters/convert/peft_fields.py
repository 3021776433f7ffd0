"""Every field of PEFT's LoraConfig: obeyed, harmless or refused.

PEFT grows a field for every variant of LoRA. A field that is not listed here may change what an
adapter computes, so anything but an empty value in it is refused. A test compares the tables with
the fields of the installed PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping

from jumplora_adapters.errors import ConvertError
from jumplora_adapters.printable import shown

OBEYED = frozenset(
    {
        "alpha_pattern",
        "base_model_name_or_path",
        "bias",
        "exclude_modules",
        "fan_in_fan_out",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "peft_type",
        "r",
        "rank_pattern",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
HARMLESS = {
    "auto_mapping": "names the Python class of the model",
    "corda_config": "says how factors begin; `init_lora_weights` says whether the base changed",
    "ensure_weight_tying": "concerns tied embeddings, which are refused as targets",
    "eva_config": "says how factors begin; the ranks it finds are in `rank_pattern`",
    "inference_mode": "says whether factors are trainable",
    "loftq_config": "says how factors begin; `init_lora_weights` says whether the base changed",
    "lora_dropout": "acts in training only",
    "lora_ga_config": "says how factors begin; `init_lora_weights` says whether the base changed",
    "megatron_core": "names a library, used with `megatron_config` only",
    "peft_version": "says what wrote the file",
    "qalora_group_size": "is used with `use_qalora` only",
    "revision": "belongs to the name of the base model",
    "runtime_config": "says where numbers lie while the model runs",
}
REFUSED = {
    "alora_invocation_tokens": "such an adapter acts after these tokens only",
    "arrow_config": "such an adapter is a router of others",
    "kasa_config": "KaSA takes singular values out of the base weights and adds a diagonal",
    "layer_replication": "the model that was trained has other layers than the backbone",
    "lora_bias": "T5's linear layers have no bias",
    "megatron_config": "the factors are those of Megatron's parallel layers",
    "modules_to_save": "whole modules were trained beside the factors",
    "monteclora_config": "such an adapter adds random samples to its factors",
    "target_parameters": "parameters were trained that are not the weight of a linear layer",
    "trainable_token_indices": "rows of the embedding were trained beside the factors",
    "use_bdlora": "the factors are stored as blocks",
    "use_dora": "DoRA scales the rows of the merged weight",
    "use_qalora": "QALoRA pools the inputs in groups",
    "velora_config": "the file holds more than factors",
}
# These leave the base weights alone.
PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica")
MAX_SHOWN = 80
_EMPTY: tuple[object, ...] = (None, False, 0, "", [], {})


def check_fields(config: Mapping[str, object]) -> None:
    """Raise ConvertError for the first field that says that this is not plain LoRA."""
    if config.get("peft_type") != "LORA":
        raise ConvertError(
            f"peft_type is {said(config.get('peft_type'))}, only 'LORA' is converted"
        )
    if config.get("bias", "none") != "none":
        raise ConvertError(
            f"bias is {said(config['bias'])}: only factors are converted, and T5's relative"
            " position bias would be trained as well"
        )
    if config.get("fan_in_fan_out"):
        raise ConvertError("fan_in_fan_out is set: T5's layers are not stored transposed")
    for name, value in config.items():
        if name in OBEYED or name in HARMLESS or value in _EMPTY:
            continue
        reason = REFUSED.get(name, "this field is not known here")
        raise ConvertError(
            f"{shown(name, MAX_SHOWN)} is {said(value)}: {reason}; only plain LoRA is converted"
        )
    _check_init(config.get("init_lora_weights", True))


def said(value: object) -> str:
    """A value of the file as a message shows it."""
    return shown(repr(value), MAX_SHOWN)


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
