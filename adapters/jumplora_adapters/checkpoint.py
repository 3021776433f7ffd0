"""Where a checkpoint's tensors are: one safetensors file, or several with an index.

Nothing is loaded here beyond headers, and nothing but safetensors is ever opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from safetensors import SafetensorError, safe_open

from jumplora_adapters.errors import BackboneError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_JSON_BYTES = 64 * 1024 * 1024


def weight_files(folder: Path) -> Mapping[str, Path]:
    """The file that holds each tensor, by tensor name. Raises BackboneError."""
    if (folder / SINGLE_FILE).is_file():
        return _names_in(folder / SINGLE_FILE)
    if (folder / INDEX_FILE).is_file():
        return _names_in_index(folder)
    if any(folder.glob("*.bin")):
        raise BackboneError(
            f"{folder} has its weights as .bin (pickle), which is never loaded: convert it once "
            "with `jumplora import-backbone`"
        )
    raise BackboneError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}")


def read_json_object(path: Path) -> dict[str, object]:
    """A JSON object from a file of at most 64 MiB. Raises BackboneError."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise BackboneError(f"{path} is larger than {MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BackboneError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise BackboneError(f"{path} holds no JSON object")
    return value


def _names_in(path: Path) -> Mapping[str, Path]:
    try:
        with safe_open(path, framework="pt") as file:
            return MappingProxyType(dict.fromkeys(file.keys(), path))
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"{path} is not a safetensors file: {error}") from error


def _names_in_index(folder: Path) -> Mapping[str, Path]:
    weight_map = read_json_object(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict):
        raise BackboneError(f"{folder / INDEX_FILE} has no weight_map")
    files: dict[str, Path] = {}
    for name, file in weight_map.items():
        if (
            not isinstance(file, str)
            or Path(file).name != file
            or not file.endswith(".safetensors")
        ):
            raise BackboneError(f"{INDEX_FILE} names {file!r}: only *.safetensors beside it")
        files[name] = folder / file
    return MappingProxyType(files)
