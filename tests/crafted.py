"""Adapter files taken apart, changed, and put together again without any check."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from factories import write_random_adapter
from jumplora_adapters.backbone import Backbone


def sound_adapter(folder: Path, backbone: Backbone) -> bytes:
    """A masked adapter of a toy backbone in bfloat16, with factors for q: what is then spoilt."""
    q, _ = backbone.targets
    path = write_random_adapter(
        folder,
        backbone,
        density=0.5,
        dtype=torch.bfloat16,
        rank=2,
        factors={q: (torch.ones(2, 5), torch.ones(3, 2))},
    )
    return path.read_bytes()


@dataclass(slots=True)
class Parts:
    """A safetensors file's header, as JSON objects, and the bytes after it."""

    header: dict[str, Any]
    data: bytes

    @classmethod
    def of(cls, content: bytes) -> Parts:
        """Take a sound file apart."""
        length = int.from_bytes(content[:8], "little")
        return cls(json.loads(content[8 : 8 + length]), content[8 + length :])

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as JSON objects; assign to `manifest` to change it."""
        document: dict[str, Any] = json.loads(self.header["__metadata__"]["jumplora"])
        return document

    @manifest.setter
    def manifest(self, document: dict[str, Any]) -> None:
        self.header["__metadata__"]["jumplora"] = json.dumps(document)

    @property
    def tensor_names(self) -> list[str]:
        """Names of all tensors, in file order."""
        return [name for name in self.header if name != "__metadata__"]

    def join(self) -> bytes:
        """The file, with a length that fits the header."""
        return frame(json.dumps(self.header), self.data)


def frame(header: str, data: bytes, *, length: int | None = None) -> bytes:
    """A file of this header text and data, claiming `length` (default: the true one)."""
    text = header.encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def with_tensors(content: bytes, change: Callable[[dict[str, Tensor]], object]) -> bytes:
    """The file with its tensors changed in place by `change`, everything else as it was."""
    tensors = load(content)
    change(tensors)
    return save(tensors, metadata=Parts.of(content).header["__metadata__"])


def empty_tensors(count: int) -> str:
    """A header of `count` empty tensors."""
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    return json.dumps({f"t{index}": entry for index in range(count)})


def set_value(name: str, index: Sequence[int], value: float) -> Callable[[dict[str, Tensor]], None]:
    """A change that writes one number into one tensor."""

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name][tuple(index)] = torch.tensor(value, dtype=tensors[name].dtype)

    return change
