"""Tensors of a foreign safetensors file, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from jumplora_adapters.errors import ConvertError

MAX_TENSORS = 8192


def tensors_in(path: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) by name. Raises ConvertError if the file is missing or damaged."""
    if not path.is_file():
        raise ConvertError(f"no safetensors file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            names = sorted(file.keys())
            if len(names) > MAX_TENSORS:
                raise ConvertError(
                    f"{path} has {len(names)} tensors, at most {MAX_TENSORS} are read"
                )
            for name in names:
                yield name, file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise ConvertError(f"{path} is not a sound safetensors file: {error}") from error
