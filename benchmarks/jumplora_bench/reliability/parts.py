"""Adapter files taken apart, changed, and put together again without any check."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from safetensors.torch import load, save
from torch import Tensor


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
