"""A backbone's parameters as tensors by name, and the dtypes that they are computed in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jumplora_adapters.checkpoint import Checkpoint
from jumplora_adapters.errors import BackboneError


class StoredTensors(Mapping[str, Tensor]):
    """A checkpoint's tensors in their stored dtypes, each read whenever it is asked for.

    What is read is a copy and nothing is mapped, so a tensor that is kept keeps nothing but itself,
    and a load needs room for one tensor beside what it makes of them. The files stay open, so a new
    one under a name changes nothing; one that is overwritten is not read any more.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Open every file; nothing is read yet. Raises BackboneError."""
        self._places = places = checkpoint.places
        self._files: dict[Path, Any] = {}  # of safe_open, which has no types
        self._stamps: dict[Path, os.stat_result] = {}
        for path in sorted({place.file for place in places.values()}):
            try:
                stamp = path.stat()
                self._files[path] = safe_open(path, framework="pt", backend="pread")
            except (OSError, SafetensorError) as error:
                raise BackboneError(f"{path} cannot be read: {error}") from error
            self._stamps[path] = stamp

    def are_tied(self, name: str, other: str) -> bool:
        """Whether the two parameters are one tensor."""
        return self._places[name] == self._places[other]

    def __getitem__(self, name: str) -> Tensor:
        """Read it. Raises BackboneError where the file cannot be read any more."""
        place = self._places[name]
        try:
            tensor: Tensor = self._files[place.file].get_tensor(place.name)
        except (OSError, SafetensorError) as error:
            raise BackboneError(f"{place.name} of {place.file} cannot be read: {error}") from error
        if _was_overwritten(place.file, self._stamps[place.file]):
            raise BackboneError(
                f"{place.file} was changed in place after it was opened, so its tensors may be of "
                "two backbones: start again, and replace such a file by renaming a new one"
            )
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places  # Mapping's own would read it


def _was_overwritten(path: Path, opened: os.stat_result) -> bool:
    """Whether the file that was opened has changed; another one under its name does not count."""
    try:
        now = path.stat()
    except OSError:
        return False
    is_same = (now.st_dev, now.st_ino) == (opened.st_dev, opened.st_ino)
    return is_same and (now.st_size, now.st_mtime_ns) != (opened.st_size, opened.st_mtime_ns)


def stacked(weights: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Weights [d_out, d_in] one below another, so that one product serves them all."""
    if len(names) == 1:
        return weights[names[0]]
    return torch.cat([weights[name] for name in names])


def to_dtype(name: str) -> torch.dtype:
    """The arithmetic dtype of a `dtype` setting: int8 computes its rest in float32."""
    return {"float32": torch.float32, "int8": torch.float32, "bfloat16": torch.bfloat16}[name]
