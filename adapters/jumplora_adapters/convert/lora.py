"""PEFT's LoRA: `lora_A.weight` [r, d_in] and `lora_B.weight` [d_out, r] of each module."""

from __future__ import annotations

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.factors import pair_in
from jumplora_adapters.convert.form import Form, delta_of, kept_factors
from jumplora_adapters.convert.patterns import read_strengths, scalings
from jumplora_adapters.convert.peft_fields import NOT_TRANSPOSED, fields
from jumplora_adapters.convert.peft_folder import PEFT_FRONT, WEIGHTS_FILE
from jumplora_adapters.convert.peft_format import Config, Contents, Modules, PeftFormat
from jumplora_adapters.errors import ConvertError

PARTS = ("lora_A.weight", "lora_B.weight")
FIELDS = fields(
    obeyed={
        "alpha_pattern",
        "bias",
        "exclude_modules",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "r",
        "rank_pattern",
        "use_rslora",
    },
    harmless={
        "corda_config": "says how factors begin; `init_lora_weights` says whether the base changed",
        "ensure_weight_tying": "adds embeddings, which are refused where the file has them",
        "eva_config": "says how factors begin; the ranks it finds are in `rank_pattern`",
        "loftq_config": "says how factors begin; `init_lora_weights` says whether the base changed",
        "lora_dropout": "acts in training only",
        "lora_ga_config": "says how factors begin; `init_lora_weights` tells of a changed base",
        "megatron_core": "names a library, used with `megatron_config` only",
        "qalora_group_size": "is used with `use_qalora` only",
        "runtime_config": "says where numbers lie while the model runs",
    },
    refused={
        **NOT_TRANSPOSED,
        "alora_invocation_tokens": "such an adapter acts after these tokens only",
        "arrow_config": "such an adapter is a router of others",
        "kasa_config": "KaSA takes singular values out of the base weights and adds a diagonal",
        "layer_replication": "the model that was trained has other layers than the backbone",
        "lora_bias": "T5's linear layers have no bias",
        "megatron_config": "the factors are those of Megatron's parallel layers",
        "monteclora_config": "such an adapter adds random samples to its factors",
        "target_parameters": "parameters were trained that are not the weight of a linear layer",
        "trainable_token_indices": "rows of the embedding were trained beside the factors",
        "use_bdlora": "the factors are stored as blocks",
        "use_dora": "DoRA scales the rows of the merged weight",
        "use_qalora": "QALoRA pools the inputs in groups",
        "velora_config": "the file holds more than factors",
    },
)


def read(config: Config, modules: Modules, backbone: Backbone, form: Form) -> Contents:
    """(alpha / r) B A of each module, or alpha over the root of r with rsLoRA."""
    strengths = read_strengths(config)
    factors = {
        site: pair_in(site, module.tensors, PARTS, backbone.sites[site].shape)
        for site, module in modules.items()
    }
    scaling_of, unused = scalings(
        strengths, {module.name: factors[site].rank for site, module in modules.items()}
    )
    if unused and not all(module.named_by_peft for module in modules.values()):
        raise ConvertError(
            f"{unused[0]}; but the names in {WEIGHTS_FILE} do not begin with {PEFT_FRONT}, so they"
            " may not be those that PEFT matched: save the adapter with save_pretrained"
        )
    deltas = {
        site: delta_of(site, factors[site], scaling_of[module.name], form)
        for site, module in modules.items()
    }
    return Contents(
        deltas,
        rank=max((pair.rank for pair in factors.values()), default=None),
        alpha=strengths.alpha,
        notes={"rank_scaling": strengths.rank_scaling},
        factors=kept_factors(factors, deltas, form),
        warnings=tuple(unused),
    )


LORA = PeftFormat("LORA", "LoRA", "lora", PARTS, FIELDS, read, init="init_lora_weights")
