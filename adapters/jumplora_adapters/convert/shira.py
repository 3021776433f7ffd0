"""PEFT's SHiRA (arXiv 2406.13175): `shira_indices` [2, nnz], rows and columns, and their values.

PEFT keeps its scaling in memory alone, where it is 1 after loading. On Windows it saves the
indices as float32.
"""

from __future__ import annotations

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.form import Form, sum_of
from jumplora_adapters.convert.peft_fields import NOT_TRANSPOSED, fields
from jumplora_adapters.convert.peft_format import Config, Contents, Modules, PeftFormat
from jumplora_adapters.convert.scaling import Scaling
from jumplora_adapters.convert.sparse import entries_at, flat_positions, whole_numbers
from jumplora_adapters.errors import ConvertError

WEIGHT, INDICES = "shira_weight", "shira_indices"
FIELDS = fields(
    obeyed={"init_weights"},
    harmless={
        "mask_type": "says how indices were chosen, and the file has them",
        "r": "says how many entries there are",
        "random_seed": "says how indices were chosen, and the file has them",
    },
    refused=NOT_TRANSPOSED,
)


def read(config: Config, modules: Modules, backbone: Backbone, form: Form) -> Contents:
    """D[row, column] = value."""
    deltas = {}
    for site, module in modules.items():
        shape = backbone.sites[site].shape
        if WEIGHT not in module.tensors or INDICES not in module.tensors:
            missing = INDICES if WEIGHT in module.tensors else WEIGHT
            raise ConvertError(
                f"{site!r} has no {missing}: save the adapter again with save_pretrained, from the"
                " model that was trained"
            )
        indices = whole_numbers(f"{site}: {INDICES}", module.tensors[INDICES])
        if indices.dim() != 2 or indices.shape[0] != 2:
            raise ConvertError(
                f"{site}: {INDICES} is {tuple(indices.shape)}, expected [2, entries]: rows, columns"
            )
        positions = flat_positions(site, indices[0], indices[1], shape)
        entries = entries_at(site, positions, module.tensors[WEIGHT], shape)
        deltas[site] = sum_of(site, entries, None, Scaling(scale=1.0), form)
    return Contents(deltas)


SHIRA = PeftFormat("SHIRA", "SHiRA", "shira", (WEIGHT, INDICES), FIELDS, read, init="init_weights")
