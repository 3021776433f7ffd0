"""What adapter_config.json of a PEFT folder says, as far as all formats say it alike."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from jumplora_adapters.convert.config_values import MAX_SHOWN, names_of, said
from jumplora_adapters.convert.targeting import Targeting
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.printable import shown
from jumplora_adapters.regular_file import open_regular

MAX_CONFIG_BYTES = 1024 * 1024
DEFAULT_TARGETS = ("q", "v")  # PEFT's for T5 and mT5


def read_peft_config(path: Path, *, follow_links: bool = True) -> dict[str, object]:
    """The object in adapter_config.json. Raises ConvertError."""
    if not path.is_file():
        below = sorted(path.parent.glob(f"*/{path.name}"))[:3] if path.parent.is_dir() else []
        hint = f"; there is one in {', '.join(str(found.parent) for found in below)}"
        raise ConvertError(
            f"no {path.name} in {path.parent}: not a PEFT folder{hint if below else ''}"
        )
    try:
        with os.fdopen(open_regular(path, follow_links=follow_links), "rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConvertError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_CONFIG_BYTES:
        raise ConvertError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        config = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{path} is not valid JSON: {shown(str(error), MAX_SHOWN)}") from error
    if not isinstance(config, dict):
        raise ConvertError(f"{path} holds a {type(config).__name__}, expected an object")
    return config


def targeting_of(config: Mapping[str, object]) -> Targeting:
    """The modules that a configuration chooses, as PEFT 0.21 reads its fields."""
    targets = names_of(config, "target_modules")
    layers = _layers(config)
    layers_patterns = names_of(config, "layers_pattern")
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
        excluded=names_of(config, "exclude_modules") or (),
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
