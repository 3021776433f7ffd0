"""Tensors of a foreign safetensors file, one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from jumplora_adapters.errors import ConvertError
from jumplora_adapters.regular_file import open_regular

MAX_TENSORS = 8192
MAX_BYTES = 8 << 30


def tensors_in(path: Path, *, follow_links: bool = True) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) by name. Raises ConvertError if the file is missing, huge or damaged."""
    if not path.is_file():
        raise ConvertError(f"no safetensors file at {path}")
    try:
        _check_file(path, follow_links)
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


def _check_file(path: Path, follow_links: bool) -> None:
    descriptor = open_regular(path, follow_links=follow_links)
    try:
        size = os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    if size > MAX_BYTES:
        raise ConvertError(f"{path} has {size} bytes, at most {MAX_BYTES} are read")
