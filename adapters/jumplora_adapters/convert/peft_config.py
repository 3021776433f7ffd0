"""What adapter_config.json of a PEFT folder says, as far as plain LoRA on linear layers goes.

PEFT grows a field for every variant of LoRA. A field that is not known here may change what the
adapter computes, so anything but an empty value in it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jumplora_adapters.convert.scaling import RankScaling, Scaling
from jumplora_adapters.errors import ConvertError

# Fields that say how the adapter was made or found, not what it computes.
HARMLESS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    }
)
USED = frozenset(
    {
        "alpha_pattern",
        "bias",
        "fan_in_fan_out",
        "init_lora_weights",
        "lora_alpha",
        "peft_type",
        "r",
        "rank_pattern",
        "use_rslora",
    }
)
# These leave the base weights alone; PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ subtract from them.
INITS = (True, False, None, "gaussian", "eva", "orthogonal")
EXPRESSION_CHARACTERS = frozenset("\\^$*+?{}[]|()")
MAX_CONFIG_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """alpha per module: the default, unless a pattern names the module."""

    alpha: float
    rank_scaling: RankScaling
    alpha_pattern: Mapping[str, float]

    def scaling_of(self, target: str) -> Scaling:
        """The scaling of a target; its rank is read from its factors.

        A pattern matches the whole name or its end after a dot, the first one wins, as in PEFT.
        """
        for pattern, alpha in self.alpha_pattern.items():
            if target == pattern or target.endswith("." + pattern):
                return Scaling(alpha=alpha, rank_scaling=self.rank_scaling)
        return Scaling(alpha=self.alpha, rank_scaling=self.rank_scaling)


def read_peft_config(path: Path) -> PeftConfig:
    """Read adapter_config.json; ConvertError names the field that is not plain LoRA."""
    if not path.is_file():
        raise ConvertError(f"no adapter_config.json in {path.parent}: not a PEFT folder")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConvertError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        config = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConvertError(f"{path} holds a {type(config).__name__}, expected an object")
    if config.get("peft_type") != "LORA":
        raise ConvertError(f"peft_type is {config.get('peft_type')!r}, only 'LORA' is converted")
    if config.get("bias", "none") != "none":
        raise ConvertError(f"bias is {config['bias']!r}: T5's q and v have none to adapt")
    if config.get("fan_in_fan_out"):
        raise ConvertError("fan_in_fan_out is set: T5's layers are not stored transposed")
    if config.get("init_lora_weights", True) not in INITS:
        raise ConvertError(
            f"init_lora_weights is {config['init_lora_weights']!r}, which changed the base"
            " weights: save the adapter with path_initial_model_for_weight_conversion first"
        )
    for name, value in config.items():
        if name not in HARMLESS | USED and value not in (None, False, 0, "", [], {}):
            raise ConvertError(f"{name} is {value!r}: only plain LoRA is converted, without it")
    return PeftConfig(
        alpha=_number("lora_alpha", config.get("lora_alpha")),
        rank_scaling="sqrt-r" if config.get("use_rslora") else "r",
        alpha_pattern=_pattern(config.get("alpha_pattern")),
    )


def _pattern(value: object) -> dict[str, float]:
    """alpha_pattern with literal names; PEFT would also take regular expressions."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConvertError(f"alpha_pattern is {value!r}, expected {{module name: alpha}}")
    for name in value:
        if EXPRESSION_CHARACTERS & set(name):
            raise ConvertError(
                f"alpha_pattern names {name!r}: only literal module names are read, spell them out"
            )
    return {name: _number(f"alpha_pattern[{name!r}]", alpha) for name, alpha in value.items()}


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConvertError(f"{name} is {value!r}, expected a number")
    return float(value)
