"""Adapters from the folders that PEFT saves: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.base_model import compare_base_model
from jumplora_adapters.convert.config_values import said, text_of
from jumplora_adapters.convert.draft import (
    Converted,
    Draft,
    Origin,
    file_digest,
    write_converted,
)
from jumplora_adapters.convert.form import Form
from jumplora_adapters.convert.lora import LORA
from jumplora_adapters.convert.names import Surroundings, surroundings
from jumplora_adapters.convert.peft_config import read_peft_config
from jumplora_adapters.convert.peft_fields import MERGED_IS_SERVED, check_fields
from jumplora_adapters.convert.peft_folder import PEFT_FRONT, read_modules
from jumplora_adapters.convert.peft_format import Config, Modules, PeftFormat
from jumplora_adapters.convert.rosa import ROSA
from jumplora_adapters.convert.sft import SFT
from jumplora_adapters.convert.shira import SHIRA
from jumplora_adapters.convert.supertuning import SUPERTUNING
from jumplora_adapters.convert.targeting import modules_of
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.hub import name_of
from jumplora_adapters.peft_files import CONFIG_FILE, WEIGHTS_FILE

FORMATS = {found.peft_type: found for found in (LORA, SHIRA, SUPERTUNING, ROSA, SFT)}
"""By `peft_type`. A format is added here."""

_BLOCK = re.compile(r"(?P<stack>encoder|decoder)\.block\.(?P<layer>\d+)\.")
GENERATION_TASKS = (None, "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION")


def convert_peft(
    folder: Path,
    out: Path,
    draft: Draft,
    backbone: Backbone,
    form: Form,
    *,
    source: str | None = None,
    trusted: bool = True,
) -> Converted:
    """Write the adapter of a PEFT folder to the file `out`. Raises ConvertError.

    `source` is what the manifest calls the folder, by default its name or hub id. With `trusted`
    False, links in it are refused, and no folder that its configuration names is looked at.
    """
    config = read_peft_config(folder / CONFIG_FILE, follow_links=trusted)
    chosen = format_of(config)
    modules = read_modules(folder, backbone, chosen, follow_links=trusted)
    named = _model_warnings(config, backbone, look=trusted)
    # Before the targets: of a backbone of another size, the shapes say what is wrong.
    contents = chosen.read(config, modules, backbone, form)
    warnings = [
        *named,
        *_name_warnings(modules),
        *_check_targets(config, chosen, modules, backbone),
    ]
    origin = Origin(
        method=chosen.method,
        rank=contents.rank,
        alpha=contents.alpha,
        notes={
            "converted_from": name_of(folder) if source is None else source,
            "source_sha256": file_digest(folder / WEIGHTS_FILE),
            **contents.notes,
        },
        factors=contents.factors,
        warnings=(*warnings, *contents.warnings),
    )
    return write_converted(out, draft, backbone, contents.deltas, origin)


def format_of(config: Config) -> PeftFormat:
    """The format of a folder, by its `peft_type`, whose fields were checked.

    Raises ConvertError for a type that is not in the table, and for a field that is refused.
    """
    given = config.get("peft_type")
    found = FORMATS.get(given) if isinstance(given, str) else None
    if found is None:
        raise ConvertError(
            f"peft_type is {said(given)}; these are converted: {', '.join(FORMATS)}; train one of"
            f" these, or, where PEFT can merge the adapter (merge_and_unload), {MERGED_IS_SERVED}"
        )
    check_fields(config, found.fields, found.title)
    return found


def _model_warnings(config: Config, backbone: Backbone, *, look: bool) -> Sequence[str]:
    warning = compare_base_model(text_of(config, "base_model_name_or_path"), backbone, look=look)
    warnings = [] if warning is None else [warning]
    if (task_type := text_of(config, "task_type")) not in GENERATION_TASKS:
        warnings.append(
            f"task_type is {said(task_type)}: the adapter was trained for another head than the"
            " one that generates text"
        )
    return warnings


def _name_warnings(modules: Modules) -> Iterable[str]:
    foreign = [module.name for module in modules.values() if not module.named_by_peft]
    if foreign:
        yield (
            f"{len(foreign)} names in {WEIGHTS_FILE}, such as {said(foreign[0])}, do not begin with"
            f" one {PEFT_FRONT}: PEFT itself would leave their modules as they are"
        )


def _check_targets(
    config: Config, chosen: PeftFormat, modules: Modules, backbone: Backbone
) -> Sequence[str]:
    """A warning for modules that the configuration promises and the file lacks.

    Raises ConvertError for the reverse, and where the names are those of several models.
    """
    targeting = chosen.targeting(config)
    if not modules:
        return ()
    held = {module.name for module in modules.values()}
    around = _around_all(modules)
    site_of = {
        name: module
        for module in modules_of(backbone)
        if (name := around.around(module)) is not None
    }
    promised = targeting.promised(sorted(held | site_of.keys()))
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
    if chosen.init is not None and not config.get(chosen.init, True):
        raise ConvertError(
            f"{text}: with {chosen.init} false, PEFT gives them random numbers at each load"
        )
    shallower = _shallower(modules, [site_of[name] for name in missing])
    return (f"{text}: they keep the backbone's weights{shallower}",)


def _shallower(held: Iterable[str], missing: Iterable[str]) -> str:
    """A question where exactly the last layers are missing; only a question, since PEFT loads it.

    Layers that were left out on purpose are in `layers_to_transform` and not missing.
    """
    deepest: dict[str, int] = {}
    for stack, layer in filter(None, map(_layer_of, held)):
        deepest[stack] = max(layer, deepest.get(stack, layer))
    lacking = [_layer_of(site) for site in missing]
    if not all(at is not None and at[0] in deepest and at[1] > deepest[at[0]] for at in lacking):
        return ""
    ends = " and ".join(f"{stack} layer {deepest[stack]}" for stack in sorted(deepest))
    return (
        f". It has nothing after {ends}: was it trained on a T5 with fewer layers? Then its"
        " answers are wrong on this one"
    )


def _layer_of(site: str) -> tuple[str, int] | None:
    """(stack, layer) of a module in a block."""
    match = _BLOCK.match(site)
    return None if match is None else (match["stack"], int(match["layer"]))


def _around_all(modules: Modules) -> Surroundings:
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
