"""The head of an adapter file, checked before any tensor is made, and without torch.

safetensors itself accepts half a million tensors, keys that come twice, endless metadata and any
tensor name, so sizes, counts and types are checked here. What the names mean is format's business.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from jumplora_adapters.errors import FormatError
from jumplora_adapters.file_kind import advice_on_tensors
from jumplora_adapters.json_text import parse_json
from jumplora_adapters.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from jumplora_adapters.regular_file import NotRegular, open_regular

MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_HEADER_BYTES = 1024 * 1024
MAX_TENSORS = 4096
MAX_DIMENSION = 1 << 40
MANIFEST_KEY = "jumplora"

DTYPES: Mapping[str, int] = MappingProxyType({"U8": 1, "F32": 4, "F16": 2, "BF16": 2, "I32": 4})
"""The types that are allowed, with the bytes of an entry."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor's entry; `begin` and `end` are byte offsets after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header: `tensors` is in file order, `data_start` the offset of the first byte."""

    raw: bytes  # length and JSON, as they are in the file
    manifest_text: str
    tensors: tuple[TensorInfo, ...]

    @property
    def data_start(self) -> int:
        """Where in the file the tensors begin."""
        return len(self.raw)


def read_manifest(
    path: Path, *, max_file_bytes: int = MAX_FILE_BYTES, follow_links: bool = True
) -> Manifest:
    """The manifest of a file whose header is sound; its tensors are not looked at."""
    with open_adapter(path, follow_links=follow_links) as file:
        return parse_manifest(read_header(file, max_file_bytes=max_file_bytes).manifest_text)


def open_adapter(path: Path, *, follow_links: bool) -> BufferedReader:
    """An ordinary file, open. Raises OSError, and FormatError for a pipe, a folder or a device."""
    try:
        return os.fdopen(open_regular(path, follow_links=follow_links), "rb")
    except NotRegular as error:
        raise FormatError(f"{path} is {error.kind}, not an ordinary file") from error


def read_header(file: BinaryIO, *, max_file_bytes: int = MAX_FILE_BYTES) -> Header:
    """Read and check the header of an open file, leaving it at the first tensor byte.

    Raises FormatError: file_size, header, duplicate_key, manifest, tensor_count, dtype, shape.
    """
    size = os.fstat(file.fileno()).st_size
    if size > max_file_bytes:
        raise FormatError(
            f"the file has {size} bytes; at most {max_file_bytes} are allowed", code="file_size"
        )
    if size < 10:
        raise FormatError(f"the file has {size} bytes, too few for a header", code="file_size")
    file.seek(0)
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise FormatError(fault_of_length(length, file.read(1)), code="header")
    if length > size - 8:
        raise FormatError(f"the header claims {length} bytes of a file of {size}", code="header")
    text = file.read(length)
    if len(text) != length:
        raise FormatError("the file ended inside its header", code="header")
    return check_header(prefix + text, data_bytes=size - 8 - length)


def fault_of_length(length: int, after: bytes) -> str:
    """What is wrong with a file whose header is too long by its first bytes. `after` is the next
    byte, with which a header begins if there is one."""
    if after != b"{":
        return (
            "this is not a safetensors file: it does not begin with a header's length and JSON; "
            "give the file itself, not a page about it or a pointer to it"
        )
    return f"the header claims {length} bytes; at most {MAX_HEADER_BYTES} are allowed"


def check_header(raw: bytes, *, data_bytes: int) -> Header:
    """Check the first bytes of a file (length and JSON) against the number of bytes after them."""
    try:
        text = raw[8:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"the header is not UTF-8: {error}", code="header") from error
    if not text.startswith("{"):
        raise FormatError("the header does not begin with an object", code="header")
    entries = parse_json(text, code="header")
    manifest_text = _manifest_text(entries.pop("__metadata__", None), entries)
    if len(entries) > MAX_TENSORS:
        raise FormatError(
            f"{len(entries)} tensors; at most {MAX_TENSORS} are allowed", code="tensor_count"
        )
    tensors = [_tensor_info(name, entry) for name, entry in entries.items()]
    tensors.sort(key=lambda info: (info.begin, info.end))
    _check_contiguous(tensors, data_bytes)
    return Header(raw, manifest_text, tuple(tensors))


def _manifest_text(metadata: object, names: Iterable[str]) -> str:
    if not isinstance(metadata, dict) or set(metadata) != {MANIFEST_KEY}:
        raise FormatError(
            f"the metadata must have the one key {MANIFEST_KEY!r} that holds the manifest"
            f"{advice_on_tensors(names)}",
            code="manifest",
        )
    text = metadata[MANIFEST_KEY]
    if not isinstance(text, str):
        raise FormatError("the manifest must be a string of JSON", code="manifest")
    if len(text) > MAX_MANIFEST_BYTES:
        raise FormatError(
            f"the manifest has {len(text)} characters; at most {MAX_MANIFEST_BYTES} bytes are "
            "allowed",
            code="manifest",
        )
    return text


def _tensor_info(name: str, entry: object) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(
            f"tensor {name[:80]!r} must have exactly dtype, shape and data_offsets", code="header"
        )
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FormatError(
            f"tensor {name[:80]!r} is {str(dtype)[:20]!r}; allowed are {', '.join(DTYPES)}",
            code="dtype",
        )
    shape = _whole_numbers(entry["shape"])
    offsets = _whole_numbers(entry["data_offsets"])
    if shape is None or not 1 <= len(shape) <= 2 or offsets is None or len(offsets) != 2:
        raise FormatError(
            f"tensor {name[:80]!r} must have 1 or 2 dimensions and 2 offsets, all whole numbers "
            "from 0",
            code="shape",
        )
    begin, end = offsets
    size = DTYPES[dtype]
    for dimension in shape:
        size *= dimension
    if end - begin != size:
        raise FormatError(
            f"tensor {name[:80]!r} of {dtype} {list(shape)} takes {size} bytes, its offsets give "
            f"{end - begin}",
            code="shape",
        )
    return TensorInfo(name, dtype, shape, begin, end)


def _whole_numbers(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > 2:
        return None
    # type() and not isinstance(): JSON's true is an int to Python
    if any(type(item) is not int or not 0 <= item <= MAX_DIMENSION for item in value):
        return None
    return tuple(value)


def _check_contiguous(tensors: list[TensorInfo], data_bytes: int) -> None:
    position = 0
    for info in tensors:
        if info.begin != position:
            fault = (
                "overlaps the one before" if info.begin < position else "leaves a hole before it"
            )
            raise FormatError(
                f"tensor {info.name[:80]!r} begins at {info.begin} and {fault}, which ends at "
                f"{position}",
                code="shape",
            )
        position = info.end
    if position != data_bytes:
        raise FormatError(
            f"the tensors take {position} bytes, the file has {data_bytes} after its header",
            code="file_size",
        )
