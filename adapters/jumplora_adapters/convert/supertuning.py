"""PEFT's Super-Tuning (arXiv 2607.09287): values at flat indices, with `r` also two factors."""

from __future__ import annotations

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.config_values import alpha_of, flag_of, rank_of, said
from jumplora_adapters.convert.factors import pair_in
from jumplora_adapters.convert.form import Form, sum_of
from jumplora_adapters.convert.peft_fields import fields
from jumplora_adapters.convert.peft_format import Config, Contents, Modules, PeftFormat
from jumplora_adapters.convert.scaling import Scaling
from jumplora_adapters.convert.sparse import entries_at, whole_numbers
from jumplora_adapters.errors import ConvertError

VALUES, INDICES = "supertuning_values", "supertuning_indices"
FACTORS = ("supertuning_lora_A.weight", "supertuning_lora_B.weight")
FIELDS = fields(
    obeyed={"init_weights", "lora_alpha", "r", "save_precomputed_indices"},
    harmless={
        "lora_dropout": "acts in training only",
        "select_top": "says how indices were chosen, and the file has them",
        "sparsity": "says how many entries there are",
    },
)


def read(config: Config, modules: Modules, backbone: Backbone, form: Form) -> Contents:
    """The values at their indices, and with `r` (alpha / r) B A beside them."""
    rank, alpha = _strength(config)
    if not flag_of(config, "save_precomputed_indices", default=True):
        raise ConvertError(
            "save_precomputed_indices is False, so the file has no indices, and PEFT would choose"
            " them anew by the base weights: load the adapter with PEFT on the base that it was"
            " trained on, set save_precomputed_indices of its configuration to true, and save it"
            " again"
        )
    deltas = {}
    for site, module in modules.items():
        shape, tensors = backbone.sites[site].shape, module.tensors
        if VALUES not in tensors or INDICES not in tensors:
            raise ConvertError(
                f"{site!r} has no {INDICES if VALUES in tensors else VALUES}: save the adapter"
                " again with save_pretrained, with save_precomputed_indices true"
            )
        indices = whole_numbers(f"{site}: {INDICES}", tensors[INDICES])
        entries = entries_at(site, indices, tensors[VALUES], shape)
        pair = None
        if rank is not None:
            pair = pair_in(site, tensors, FACTORS, shape)
            if pair.rank != rank:
                raise ConvertError(
                    f"{site!r}: its factors have rank {pair.rank}, adapter_config.json says {rank}"
                    " by r: they do not belong together"
                )
        elif given := [part for part in FACTORS if part in tensors]:
            raise ConvertError(
                f"{site!r} has {given[0]}, and adapter_config.json no r: PEFT would leave it out"
            )
        deltas[site] = sum_of(site, entries, pair, Scaling(alpha=alpha), form)
    return Contents(deltas, rank=rank, alpha=None if rank is None else alpha)


def _strength(config: Config) -> tuple[int | None, float]:
    """Rank and alpha; no rank without a low-rank part."""
    given, alpha = config.get("r"), config.get("lora_alpha")
    if given is None:
        if alpha is not None:
            raise ConvertError(f"lora_alpha is {said(alpha)} without r, which PEFT does not take")
        return None, 1.0
    rank = rank_of("r", given)
    return rank, 2.0 * rank if alpha is None else alpha_of("lora_alpha", alpha)


SUPERTUNING = PeftFormat(
    "SUPERTUNING",
    "Super-Tuning",
    "supertuning",
    (VALUES, INDICES, *FACTORS),
    FIELDS,
    read,
    init="init_weights",
)
