"""Adapters from a PEFT LoRA folder: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.base_model import compare_base_model
from jumplora_adapters.convert.draft import (
    Converted,
    Draft,
    Origin,
    file_digest,
    write_converted,
)
from jumplora_adapters.convert.factors import Factors, check_factors
from jumplora_adapters.convert.form import Form, delta_of, kept_factors
from jumplora_adapters.convert.names import Surroundings, match_modules, surroundings
from jumplora_adapters.convert.patterns import scalings
from jumplora_adapters.convert.peft_config import PeftConfig, read_peft_config
from jumplora_adapters.convert.peft_fields import said
from jumplora_adapters.convert.targeting import modules_of
from jumplora_adapters.convert.tensor_file import tensors_in
from jumplora_adapters.errors import ConvertError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLED_FILE = "adapter_model.bin"
PEFT_FRONT = "base_model.model."  # PEFT writes it before a module's name in the model
WRAPPER_FRONTS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
GENERATION_TASKS = (None, "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION")


@dataclass(frozen=True, slots=True)
class PeftModule:
    """Factors, and the name that PEFT's patterns know their module by."""

    name: str
    factors: Factors
    named_by_peft: bool  # False: the file's name lacks PEFT's front, so `name` is a guess


def read_peft_modules(folder: Path, backbone: Backbone) -> dict[str, PeftModule]:
    """Target -> its module. Raises ConvertError for anything but one LoRA on q and v."""
    path = folder / WEIGHTS_FILE
    if not path.is_file() and (folder / PICKLED_FILE).is_file():
        raise ConvertError(
            f"{folder} has {PICKLED_FILE}, a pickle, which is not opened: load it with PEFT and"
            " save it again with save_pretrained(folder, safe_serialization=True)"
        )
    halves: dict[str, dict[str, Tensor]] = {}
    adapters: set[str] = set()
    for name, tensor in tensors_in(path):
        module, letter, adapter = _split(name)
        adapters.add(adapter)
        if letter in halves.setdefault(module, {}):
            raise ConvertError(
                f"{path}: {said(module)} has two lora_{letter}, one adapter is expected"
            )
        halves[module][letter] = tensor
    if len(adapters) > 1:
        raise ConvertError(
            f"{path} holds {len(adapters)} adapters, such as"
            f" {' and '.join(map(said, sorted(adapters)[:2]))}: save each in a separate folder"
        )
    own_names = {module: _own_name(module) for module in halves}
    targets = match_modules([name for name, _ in own_names.values()], backbone.targets)
    modules: dict[str, PeftModule] = {}
    for module, (name, named_by_peft) in own_names.items():
        target = targets[name]
        A, B = halves[module].get("A"), halves[module].get("B")
        if A is None or B is None:
            raise ConvertError(
                f"{path}: {module!r} has lora_{'A' if B is None else 'B'} and no"
                f" lora_{'B' if B is None else 'A'}"
            )
        factors = check_factors(module, A, B, backbone.targets[target])
        modules[target] = PeftModule(name, factors, named_by_peft)
    return modules


def convert_peft(
    folder: Path, out: Path, draft: Draft, backbone: Backbone, form: Form
) -> Converted:
    """Write the adapter of a PEFT folder to the file `out`. Raises ConvertError."""
    config = read_peft_config(folder / CONFIG_FILE)
    modules = read_peft_modules(folder, backbone)
    warnings = [
        *_model_warnings(config, backbone),
        *_name_warnings(modules),
        *_check_targets(config, modules, backbone),
    ]
    scaling_of, unused = scalings(config, {m.name: m.factors.rank for m in modules.values()})
    if unused and not all(module.named_by_peft for module in modules.values()):
        raise ConvertError(
            f"{unused[0]}; but the names in {WEIGHTS_FILE} do not begin with {PEFT_FRONT}, so they"
            " may not be those that PEFT matched: save the adapter with save_pretrained"
        )
    factors = {target: module.factors for target, module in modules.items()}
    deltas = {
        target: delta_of(target, module.factors, scaling_of[module.name], form)
        for target, module in modules.items()
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
        warnings=(*warnings, *unused),
    )
    return write_converted(out, draft, backbone, deltas, origin)


def _model_warnings(config: PeftConfig, backbone: Backbone) -> Iterable[str]:
    warning = compare_base_model(config.base_model, backbone)
    if warning is not None:
        yield warning
    if config.task_type not in GENERATION_TASKS:
        yield (
            f"task_type is {said(config.task_type)}: the LoRA was trained for another head than the"
            " one that generates text"
        )


def _name_warnings(modules: Mapping[str, PeftModule]) -> Iterable[str]:
    foreign = [module.name for module in modules.values() if not module.named_by_peft]
    if foreign:
        yield (
            f"{len(foreign)} names in {WEIGHTS_FILE}, such as {said(foreign[0])}, do not begin with"
            f" one {PEFT_FRONT}: PEFT itself would leave their modules as they are"
        )


def _check_targets(
    config: PeftConfig, modules: Mapping[str, PeftModule], backbone: Backbone
) -> Sequence[str]:
    """A warning for modules that the configuration promises and the file lacks.

    Raises ConvertError for the reverse, and where the names are those of several models.
    """
    if not modules:
        return ()
    held = {module.name for module in modules.values()}
    around = _around_all(modules)
    names = {name for module in modules_of(backbone) if (name := around.around(module)) is not None}
    promised = config.targeting.promised(sorted(held | names))
    if foreign := sorted(held - promised):
        raise ConvertError(
            f"{WEIGHTS_FILE} has {len(foreign)} modules that adapter_config.json does not choose,"
            f" such as {said(foreign[0])} (target_modules, exclude_modules, layers_to_transform):"
            " PEFT would leave them out"
        )
    missing = sorted(promised - held)
    if not missing:
        return ()
    text = (
        f"adapter_config.json chooses {len(promised)} modules and {WEIGHTS_FILE} lacks"
        f" {len(missing)} of them, such as {said(missing[0])}"
    )
    if config.random_start:
        raise ConvertError(
            f"{text}: with init_lora_weights false, PEFT gives them random numbers at each load"
        )
    return (f"{text}: they keep the backbone's weights",)


def _around_all(modules: Mapping[str, PeftModule]) -> Surroundings:
    found = {
        (surroundings(module.name, target), module.named_by_peft)
        for target, module in modules.items()
    }
    if len(found) > 1:
        fronts = sorted(said(around.front) for around, _ in found)
        raise ConvertError(
            f"{WEIGHTS_FILE} names its modules in {len(found)} ways, as if they were of several"
            f" models ({', '.join(fronts[:3])} before the backbone's names): one model is expected"
        )
    return next(iter(found))[0]


def _own_name(module: str) -> tuple[str, bool]:
    """The module's name in the model that was trained, and whether the file is sure of it."""
    name = module
    while front := next((f for f in WRAPPER_FRONTS if name.startswith(f)), None):
        name = name.removeprefix(front)
    if name.startswith(PEFT_FRONT):
        own = name.removeprefix(PEFT_FRONT)
        return own, not own.startswith(PEFT_FRONT)
    return module, False


def _split(name: str) -> tuple[str, str, str]:
    """(module, "A" or "B", adapter) of "base_model.model.<module>.lora_A.weight".

    Adapter names inside (`.lora_A.default.weight`, as in a model's own state dict) are accepted.
    """
    for letter in ("A", "B"):
        module, found, rest = name.rpartition(f".lora_{letter}.")
        adapter, dot, weight = rest.rpartition(".")
        if found and weight == "weight" and "." not in adapter:
            return module, letter, adapter if dot else ""
    raise ConvertError(f"tensor {said(name)} is neither lora_A nor lora_B of a linear layer")
