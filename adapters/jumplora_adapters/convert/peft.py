"""Adapters from a PEFT LoRA folder: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.draft import (
    Converted,
    Draft,
    Origin,
    file_digest,
    write_converted,
)
from jumplora_adapters.convert.factors import Factors, check_factors
from jumplora_adapters.convert.form import Form, delta_of, kept_factors
from jumplora_adapters.convert.names import match_modules
from jumplora_adapters.convert.peft_config import read_peft_config
from jumplora_adapters.convert.tensor_file import tensors_in
from jumplora_adapters.errors import ConvertError

WEIGHTS_FILE = "adapter_model.safetensors"
PICKLED_FILE = "adapter_model.bin"


def read_peft_factors(folder: Path, backbone: Backbone) -> dict[str, Factors]:
    """Target -> unscaled factors. Raises ConvertError for anything but LoRA on q and v."""
    path = folder / WEIGHTS_FILE
    if not path.is_file() and (folder / PICKLED_FILE).is_file():
        raise ConvertError(
            f"{folder} has {PICKLED_FILE}, a pickle, which is not opened: load it with PEFT and"
            " save it again with save_pretrained(folder, safe_serialization=True)"
        )
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors_in(path):
        module, letter = _split(name)
        if letter in halves.setdefault(module, {}):
            raise ConvertError(f"{path}: {module!r} has two lora_{letter}")
        halves[module][letter] = tensor
    targets = match_modules(halves, backbone.targets)
    return {
        target: check_factors(
            module, halves[module].get("A"), halves[module].get("B"), backbone.targets[target]
        )
        for module, target in targets.items()
    }


def convert_peft(
    folder: Path, out: Path, draft: Draft, backbone: Backbone, form: Form
) -> Converted:
    """Write the adapter of a PEFT folder to the file `out`. Raises ConvertError."""
    config = read_peft_config(folder / "adapter_config.json")
    factors = read_peft_factors(folder, backbone)
    deltas = {
        name: delta_of(name, pair, config.scaling_of(name), form) for name, pair in factors.items()
    }
    origin = Origin(
        method="lora",
        rank=max((pair.rank for pair in factors.values()), default=None),
        alpha=config.alpha,
        notes={
            "converted_from": folder.name,
            "source_sha256": file_digest(folder / WEIGHTS_FILE),
            "rank_scaling": config.rank_scaling,
        },
        factors=kept_factors(factors, deltas, form),
    )
    return write_converted(out, draft, backbone, deltas, origin)


def _split(name: str) -> tuple[str, str]:
    """(module, "A" or "B") of "base_model.model.<module>.lora_A.weight".

    Adapter names inside (`.lora_A.default.weight`, as in a model's own state dict) are accepted.
    """
    for letter in ("A", "B"):
        module, found, rest = name.rpartition(f".lora_{letter}.")
        if found and (rest == "weight" or (rest.endswith(".weight") and rest.count(".") == 1)):
            return module, letter
    raise ConvertError(f"tensor {name!r} is neither lora_A nor lora_B of a linear layer")
