"""RoSA (arXiv 2401.04679), of IST-DASLab's fork of PEFT: compressed rows beside a LoRA.

Read from the fork's source, not run: it needs a CUDA extension. Column indices are int16, and those
above 32,767 are negative there. `row_idx` is an order of the rows by their length, and tensors with
`tr_` are the same matrix by columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.config_values import alpha_of, flag_of, pattern_of, rank_of
from jumplora_adapters.convert.factors import Factors, pair_in
from jumplora_adapters.convert.form import Form, sum_of
from jumplora_adapters.convert.peft_config import targeting_of
from jumplora_adapters.convert.peft_fields import NOT_TRANSPOSED, fields
from jumplora_adapters.convert.peft_format import Config, Contents, Modules, PeftFormat
from jumplora_adapters.convert.scaling import Scaling
from jumplora_adapters.convert.sparse import Entries, entries_at, flat_positions, whole_numbers
from jumplora_adapters.convert.targeting import Targeting
from jumplora_adapters.errors import ConvertError

FACTORS = ("rosa_A.weight", "rosa_B.weight")
VALUES, OFFSETS, COLUMNS = "rosa_spa.values", "rosa_spa.row_offs", "rosa_spa.col_idx"
SPARSE = (VALUES, OFFSETS, COLUMNS)
DEFAULT_RANK = DEFAULT_ALPHA = 8
FIELDS = fields(
    obeyed={
        "bias",
        "d",
        "init_lora_weights",
        "lora_alpha",
        "r",
        "use_rslora",
    },
    harmless={
        "density_pattern": "says how many entries there are",
        "grad_4bit_accum": "says how entries were chosen",
        "grad_acc_mode": "says how entries were chosen",
        "impl": "says which kernel computes it",
        "layers_pattern": "says which modules have tensors, and the file has them",
        "layers_to_transform": "says which modules have tensors, and the file has them",
        "loftq_config": "says how factors begin; `init_lora_weights` says whether the base changed",
        "lora_dropout": "acts in training only",
        "mask_load_path": "says how entries were chosen",
        "mask_save_path": "says how entries were chosen",
        "megatron_core": "names a library, used with `megatron_config` only",
        "rank_pattern": "says the factors' ranks, and the file has them",
        "rosa_dtype": "is the type of the tensors in the file",
        "schedule": "acts in training only",
        "spa_num_grads": "says how entries were chosen",
        "spa_store_transpose": "says whether the same matrix is stored twice",
        "terminate_after_mask_generation": "acts in training only",
    },
    refused={
        **NOT_TRANSPOSED,
        "alpha_pattern": "the fork looks for its patterns together with those of ranks and"
        " densities, and was not run to see which one counts",
        "megatron_config": "the factors are those of Megatron's parallel layers",
    },
)


def read(config: Config, modules: Modules, backbone: Backbone, form: Form) -> Contents:
    """The sparse matrix and s B A with s = alpha / r; either may be missing."""
    alpha = alpha_of("lora_alpha", config.get("lora_alpha", DEFAULT_ALPHA))
    scaling = Scaling(alpha=alpha, rank_scaling="sqrt-r" if flag_of(config, "use_rslora") else "r")
    deltas, ranks = {}, [0]
    for site, module in modules.items():
        shape = backbone.sites[site].shape
        pair = None
        if any(part in module.tensors for part in FACTORS):
            pair = pair_in(site, module.tensors, FACTORS, shape)
            ranks.append(pair.rank)
        _check_rank(config, site, pair)
        deltas[site] = sum_of(site, _entries(site, module.tensors, shape), pair, scaling, form)
    rank = max(ranks) or None
    return Contents(deltas, rank=rank, alpha=None if rank is None else alpha)


def _check_rank(config: Config, site: str, pair: Factors | None) -> None:
    given = {"r": config.get("r", DEFAULT_RANK), **pattern_of(config, "rank_pattern")}
    allowed = [0 if value == 0 else rank_of(field, value) for field, value in given.items()]
    if (rank := 0 if pair is None else pair.rank) not in allowed:
        raise ConvertError(
            f"{site!r}: its factors have rank {rank}, adapter_config.json says"
            f" {' or '.join(map(str, sorted(set(allowed))))}: they do not belong together"
        )


def _entries(site: str, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Entries | None:
    """The sparse matrix; None where the fork had chosen no entries when it saved."""
    if not any(part in tensors for part in SPARSE):
        return None
    if missing := [part for part in SPARSE if part not in tensors]:
        raise ConvertError(f"{site!r} has no {missing[0]}, and other tensors of rosa_spa")
    offsets = whole_numbers(f"{site}: {OFFSETS}", tensors[OFFSETS])
    columns = whole_numbers(f"{site}: {COLUMNS}", tensors[COLUMNS])
    if tensors[COLUMNS].dtype == torch.int16:
        columns = columns & 0xFFFF
    if offsets.shape != (shape[0] + 1,) or columns.dim() != 1:
        raise ConvertError(
            f"{site}: {OFFSETS} is {tuple(offsets.shape)} and {COLUMNS} {tuple(columns.shape)},"
            f" expected [{shape[0] + 1}] and [entries]: the adapter belongs to another backbone"
        )
    if not bool(offsets.any()):
        return None
    lengths = offsets.diff()
    if int(offsets[0]) != 0 or int(offsets[-1]) != columns.numel() or bool((lengths < 0).any()):
        raise ConvertError(
            f"{site}: {OFFSETS} does not rise from 0 to the {columns.numel()} entries of {COLUMNS}"
        )
    rows = torch.repeat_interleave(torch.arange(shape[0]), lengths)
    return entries_at(site, flat_positions(site, rows, columns, shape), tensors[VALUES], shape)


def _targeting(config: Config) -> Targeting:
    """Without layers: the fork counts them otherwise than PEFT, and the file has the modules."""
    return replace(targeting_of(config), layers=frozenset(), layers_patterns=())


ROSA = PeftFormat(
    "ROSA",
    "RoSA",
    "rosa",
    (*FACTORS, *SPARSE),
    FIELDS,
    read,
    ignored=tuple(
        f"rosa_spa.{name}"
        for name in ("row_idx", "tr_perm", "tr_row_offs", "tr_row_idx", "tr_col_idx")
    ),
    init="init_lora_weights",
    targeting=_targeting,
)
