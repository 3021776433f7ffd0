"""The tensors of a PEFT folder by module, whatever the format: names, base weights, limits."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.base_model import are_close
from jumplora_adapters.convert.config_values import said
from jumplora_adapters.convert.names import match_module, match_modules
from jumplora_adapters.convert.peft_format import PeftFormat, PeftModule
from jumplora_adapters.convert.targeting import modules_of
from jumplora_adapters.convert.tensor_file import tensors_in
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.hub import Fetch, resolve_folder

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLED_FILE = "adapter_model.bin"
PEFT_FRONT = "base_model.model."  # PEFT writes it before a module's name in the model
WRAPPER_FRONTS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")


def resolve_peft_folder(name_or_path: str, *, fetch: Fetch | None = None) -> Path:
    """A local folder as it is, or the two files of a hub repository. Raises ConvertError."""
    return resolve_folder(
        name_or_path, (CONFIG_FILE, WEIGHTS_FILE), error=ConvertError, fetch=fetch
    )


def read_modules(
    folder: Path, backbone: Backbone, form: PeftFormat, *, follow_links: bool = True
) -> dict[str, PeftModule]:
    """Site -> its tensors. Raises ConvertError for anything but one adapter on linear layers."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickled = f"; {PICKLED_FILE} is a pickle, which is not opened"
        raise ConvertError(
            f"no {WEIGHTS_FILE} in {folder}{pickled if (folder / PICKLED_FILE).is_file() else ''}:"
            f" load a {PICKLED_FILE} with PEFT where you trust it, and save it again with"
            " save_pretrained(folder, safe_serialization=True)"
        )
    found: dict[str, dict[str, Tensor]] = {}
    adapters: set[str] = set()
    for name, tensor in tensors_in(path, follow_links=follow_links):
        split = _split(name, (*form.parts, *form.ignored))
        if split is None:
            _check_other(name, tensor, backbone, form)
            continue
        module, part, adapter = split
        adapters.add(adapter)
        if part in found.setdefault(module, {}):
            raise ConvertError(f"{path}: {said(module)} has two {part}, one adapter is expected")
        found[module][part] = tensor
    if len(adapters) > 1:
        raise ConvertError(
            f"{path} holds {len(adapters)} adapters, such as"
            f" {' and '.join(map(said, sorted(adapters)[:2]))}: save each in a separate folder"
        )
    own_names = {module: _own_name(module) for module in found}
    targets = match_modules([name for name, _ in own_names.values()], backbone.sites)
    return {
        targets[name]: PeftModule(
            name, {p: t for p, t in found[module].items() if p in form.parts}, named_by_peft
        )
        for module, (name, named_by_peft) in own_names.items()
    }


def _split(name: str, parts: Iterable[str]) -> tuple[str, str, str] | None:
    """(module, part, adapter) of "base_model.model.<module>.lora_A.weight".

    Adapter names inside (`.lora_A.default.weight`, as in a model's own state dict) are accepted.
    """
    for part in parts:
        stem, dot, leaf = part.partition(".")
        module, found, rest = f"{name}.".rpartition(f".{stem}.")
        end = f"{leaf}{dot}"
        if not found or not rest.endswith(end):
            continue
        adapter = rest.removesuffix(end).removesuffix(".")
        if "." not in adapter:
            return module, part, adapter
    return None


def _check_other(name: str, tensor: Tensor, backbone: Backbone, form: PeftFormat) -> None:
    """Raise ConvertError unless a tensor beside the adapter is the backbone's own weight.

    PEFT saves the weight of the head with an adapter that has it as a target.
    """
    if "_embedding_" in name:
        raise ConvertError(
            f"tensor {said(name)}: an embedding was a target, and only linear layers can carry a"
            " delta: train without it in target_modules, and without ensure_weight_tying, which"
            " adds the embeddings to a tied head"
        )
    parameter = _parameter(name, backbone)
    if parameter is None:
        raise ConvertError(
            f"tensor {said(name)} is none of {form.title}'s: {', '.join(form.parts)} of linear"
            " layers are read"
        )
    ((_, ours),) = backbone.checkpoint.tensors([parameter])
    if not are_close(tensor, ours):
        raise ConvertError(
            f"tensor {said(name)} is another weight than the backbone's {parameter}: whole weights"
            " were trained, the vocabulary was changed, or the backbone is another one"
        )


def _parameter(name: str, backbone: Backbone) -> str | None:
    """The backbone's parameter that a foreign name ends with, if it is a module's weight."""
    if not name.endswith(".weight"):
        return None
    try:
        return f"{match_module(_own_name(name)[0], modules_of(backbone))}.weight"
    except ConvertError:
        return None


def _own_name(module: str) -> tuple[str, bool]:
    """The module's name in the model that was trained, and whether the file is sure of it."""
    name = module
    while front := next((f for f in WRAPPER_FRONTS if name.startswith(f)), None):
        name = name.removeprefix(front)
    if name.startswith(PEFT_FRONT):
        own = name.removeprefix(PEFT_FRONT)
        return own, not own.startswith(PEFT_FRONT)
    return module, False
