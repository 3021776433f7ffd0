"""SFT, also SpIEL (arXiv 2401.16405), of AlanAnsell's fork of PEFT: values at flat indices.

Read from the fork's source, not run: it needs a CUDA extension.
"""

from __future__ import annotations

from dataclasses import replace

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.config_values import pattern_of
from jumplora_adapters.convert.form import Form, sum_of
from jumplora_adapters.convert.peft_config import targeting_of
from jumplora_adapters.convert.peft_fields import fields
from jumplora_adapters.convert.peft_format import Config, Contents, Modules, PeftFormat
from jumplora_adapters.convert.scaling import Scaling
from jumplora_adapters.convert.sparse import entries_at, whole_numbers
from jumplora_adapters.convert.targeting import Targeting
from jumplora_adapters.errors import ConvertError

VALUES, INDICES = "sft_delta.values", "sft_delta.indices"
CHOSEN = "says how indices were chosen, and the file has them"
FIELDS = fields(
    obeyed={"num_deltas"},
    harmless={
        "candidate_reselection_proportion": CHOSEN,
        "candidate_reselection_steps": CHOSEN,
        "density": "says how many entries there are",
        "dropout": "acts in training only",
        "dtype": "is the type of the values in the file",
        "initial_reselection_rate": CHOSEN,
        "l2_reg": "acts in training only",
        "layers_pattern": "says which modules have tensors, and the file has them",
        "layers_to_transform": "says which modules have tensors, and the file has them",
        "num_tunable_weights": "says how many entries there are",
        "reselection_steps": CHOSEN,
        "selection_accumulation_steps": CHOSEN,
        "selection_algorithm": CHOSEN,
    },
)


def read(config: Config, modules: Modules, backbone: Backbone, form: Form) -> Contents:
    """The values at their indices."""
    deltas = {}
    for site, module in modules.items():
        shape, tensors = backbone.sites[site].shape, module.tensors
        if VALUES not in tensors or INDICES not in tensors:
            raise ConvertError(f"{site!r} has no {INDICES if VALUES in tensors else VALUES}")
        indices = whole_numbers(f"{site}: {INDICES}", tensors[INDICES])
        entries = entries_at(site, indices, tensors[VALUES], shape)
        deltas[site] = sum_of(site, entries, None, Scaling(scale=1.0), form)
    return Contents(deltas)


def _targeting(config: Config) -> Targeting:
    """The modules of num_deltas, which the fork writes and which counts before target_modules."""
    if names := pattern_of(config, "num_deltas"):
        return Targeting(tuple(names))
    return replace(targeting_of(config), layers=frozenset(), layers_patterns=())


SFT = PeftFormat("SFT", "SFT (SpIEL)", "sft", (VALUES, INDICES), FIELDS, read, targeting=_targeting)
