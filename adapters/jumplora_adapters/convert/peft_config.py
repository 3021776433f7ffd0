"""What adapter_config.json of a PEFT folder says, as far as plain LoRA on linear layers goes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jumplora_adapters.convert.peft_fields import MAX_SHOWN, check_fields, said
from jumplora_adapters.convert.scaling import RankScaling
from jumplora_adapters.convert.targeting import Targeting
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.printable import shown

MAX_CONFIG_BYTES = 1024 * 1024
MAX_NAMES = 8192
DEFAULT_RANK = 8  # PEFT's, where the field is missing
DEFAULT_TARGETS = ("q", "v")  # PEFT's for T5 and mT5


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """Rank and alpha of a module: the defaults, unless a pattern names the module."""

    rank: int
    alpha: float
    rank_scaling: RankScaling
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    targeting: Targeting
    base_model: str | None
    task_type: str | None
    random_start: bool  # PEFT fills modules that a file lacks with random numbers


def read_peft_config(path: Path) -> PeftConfig:
    """Read adapter_config.json; ConvertError names the field that is not plain LoRA."""
    config = _read_object(path)
    check_fields(config)
    return PeftConfig(
        rank=_rank("r", config.get("r", DEFAULT_RANK)),
        alpha=_alpha("lora_alpha", config.get("lora_alpha")),
        rank_scaling="sqrt-r" if _flag(config, "use_rslora") else "r",
        rank_pattern={
            name: _rank(f"rank_pattern[{said(name)}]", rank)
            for name, rank in _pattern(config, "rank_pattern").items()
        },
        alpha_pattern={
            name: _alpha(f"alpha_pattern[{said(name)}]", alpha)
            for name, alpha in _pattern(config, "alpha_pattern").items()
        },
        targeting=_targeting(config),
        base_model=_text(config, "base_model_name_or_path"),
        task_type=_text(config, "task_type"),
        random_start=not config.get("init_lora_weights", True),
    )


def _read_object(path: Path) -> dict[str, object]:
    if not path.is_file():
        below = sorted(path.parent.glob(f"*/{path.name}"))[:3] if path.parent.is_dir() else []
        hint = f"; there is one in {', '.join(str(found.parent) for found in below)}"
        raise ConvertError(
            f"no {path.name} in {path.parent}: not a PEFT folder{hint if below else ''}"
        )
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConvertError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        config = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{path} is not valid JSON: {shown(str(error), MAX_SHOWN)}") from error
    if not isinstance(config, dict):
        raise ConvertError(f"{path} holds a {type(config).__name__}, expected an object")
    return config


def _targeting(config: Mapping[str, object]) -> Targeting:
    targets = _names(config, "target_modules")
    layers = _layers(config)
    layers_patterns = _names(config, "layers_pattern")
    # PEFT refuses these as well.
    if isinstance(targets, str) and (layers is not None or layers_patterns is not None):
        raise ConvertError(
            "target_modules is an expression, and layers_to_transform or layers_pattern is given:"
            " PEFT allows them with a list of names only"
        )
    if layers_patterns and layers is None:
        raise ConvertError("layers_pattern is given without layers_to_transform")
    if isinstance(layers_patterns, str):
        layers_patterns = (layers_patterns,) if layers_patterns else None
    return Targeting(
        targets=DEFAULT_TARGETS if targets is None else targets,
        excluded=_names(config, "exclude_modules") or (),
        layers=layers or frozenset(),
        layers_patterns=layers_patterns or (),
    )


def _layers(config: Mapping[str, object]) -> frozenset[int] | None:
    value = config.get("layers_to_transform")
    if value is None:
        return None
    layers = value if isinstance(value, list) else [value]
    if any(isinstance(layer, bool) or not isinstance(layer, int) for layer in layers):
        raise ConvertError(f"layers_to_transform is {said(value)}, expected numbers of layers")
    return frozenset(layers)


def _names(config: Mapping[str, object], field: str) -> str | tuple[str, ...] | None:
    """An expression, or a list of names."""
    value = config.get(field)
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ConvertError(f"{field} is {said(value)}, expected an expression or a list of names")
    if len(value) > MAX_NAMES:
        raise ConvertError(f"{field} has {len(value)} names, at most {MAX_NAMES} are read")
    return tuple(value)


def _pattern(config: Mapping[str, object], field: str) -> dict[str, object]:
    value = config.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConvertError(f"{field} is {said(value)}, expected an object of module names")
    if len(value) > MAX_NAMES:
        raise ConvertError(f"{field} has {len(value)} names, at most {MAX_NAMES} are read")
    return value


def _text(config: Mapping[str, object], field: str) -> str | None:
    value = config.get(field)
    if value is not None and not isinstance(value, str):
        raise ConvertError(f"{field} is {said(value)}, expected a text")
    return value or None


def _flag(config: Mapping[str, object], field: str) -> bool:
    value = config.get(field)
    if value is not None and not isinstance(value, bool):
        raise ConvertError(f"{field} is {said(value)}, expected true or false")
    return bool(value)


def _rank(field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConvertError(f"{field} is {said(value)}, expected a whole number from 1")
    return value


def _alpha(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConvertError(f"{field} is {said(value)}, expected a number")
    try:
        alpha = float(value)
    except OverflowError:
        alpha = math.inf
    if not math.isfinite(alpha) or alpha == 0:
        raise ConvertError(f"{field} is {said(value)}, expected a finite number that is not zero")
    return alpha
