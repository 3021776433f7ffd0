"""What a file or folder is by its names and first bytes, and which command takes it.

For messages alone: nothing is unpickled, no tensor is read, and the command makes its own checks.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Literal

from jumplora_adapters.errors import AdapterError, WrongFile
from jumplora_adapters.file_kind import HEAD_BYTES, PEFT_MARKS, kind_of
from jumplora_adapters.peft_files import CONFIG_FILE, PICKLED_FILE
from jumplora_adapters.printable import printable
from jumplora_adapters.regular_file import open_regular

Kind = Literal[
    "adapter", "adapters", "backbone", "backbone file", "pickled backbone", "pickled weights",
    "peft", "peft archive", "peft weights", "official", "torch files", "dense", "store", "run",
]  # fmt: skip

MAX_HEADER_BYTES = 16 << 20
MAX_ENTRIES = 1000  # of a folder that are looked at
MAX_OPENED = 3  # of a folder's safetensors files
_PICKLES = (b"PK\x03\x04", b"\x80")  # torch's archives, and files of before 1.6


@dataclass(frozen=True, slots=True)
class Recognised:
    """What lies at a path, and the command that takes it, both for a message."""

    kind: Kind
    what: str
    command: str


def recognise(path: Path) -> Recognised | None:
    """What lies at `path`; None for anything that no command takes."""
    try:
        return _folder(path) if path.is_dir() else _file(path) if path.is_file() else None
    except OSError:
        return None


def check_is(path: Path, *kinds: Kind, error: type[AdapterError]) -> None:
    """Raise `error`, which names the command that takes it, where `path` is of another kind."""
    found = recognise(path)
    if found is not None and found.kind not in kinds:
        raise error(f"{path} is {found.what}; this takes it: {found.command}")


def _folder(path: Path) -> Recognised | None:
    names = sorted(entry.name for entry in islice(path.iterdir(), MAX_ENTRIES))
    shown = _shown(path)
    if CONFIG_FILE in names:
        return Recognised("peft", "a PEFT folder", f"jumplora convert peft {shown}")
    if ".lock" in names:
        return Recognised(
            "store", "a store of published adapters", f"jumplora list --store {shown}"
        )
    if {"matrix.json", "adapters"} <= set(names):
        return Recognised("run", "a continual run", f"jumplora continual publish {shown}")
    if "config.json" in names:
        if any(name.endswith(".safetensors") for name in names):
            return Recognised(
                "backbone", "a backbone's folder", f"jumplora serve --backbone {shown}"
            )
        if any(name.endswith(".bin") for name in names):
            return Recognised(
                "pickled backbone",
                "a model's folder with pickled weights",
                f"jumplora import-backbone {shown}",
            )
    tensor_files = [path / name for name in names if name.endswith(".safetensors")]
    for file in tensor_files[:MAX_OPENED]:
        found = _file(file)
        if found is not None and found.kind == "adapter":
            what = f"a folder of JumpLoRA adapters, such as {printable(file.name)}"
            return Recognised("adapters", what, found.command)
    pickles = [path / name for name in names if name.endswith(".pt")]
    if not pickles:
        return None
    of_first = _pickle(pickles[0])
    return Recognised("torch files", "a folder of torch files", of_first.command)


def _file(path: Path) -> Recognised | None:
    with _opened(path) as file:
        start = file.peek(HEAD_BYTES)[:HEAD_BYTES]
        header = _header(file)
    if header is None:
        # After the header: the length of one may begin with a pickle's first byte.
        if _is_archive(start):
            return Recognised(
                "peft archive",
                "an archive",
                f"jumplora publish {_shown(path)} --task TASK, if it holds a PEFT folder",
            )
        return _pickle(path) if start.startswith(_PICKLES) else None
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict) and "jumplora" in metadata:
        return Recognised("adapter", "a JumpLoRA adapter", f"jumplora publish {_shown(path)}")
    parent = _shown(path.parent)
    if any(mark in name for mark in PEFT_MARKS for name in header):
        return Recognised("peft weights", "a PEFT folder's file", f"jumplora convert peft {parent}")
    if (path.parent / "config.json").is_file():
        return Recognised(
            "backbone file", "a backbone's file", f"jumplora serve --backbone {parent}"
        )
    return Recognised(
        "dense",
        "a safetensors file of other tensors",
        f"jumplora convert dense {_shown(path)}, if they are W - W0 by module",
    )


def _pickle(path: Path) -> Recognised:
    if path.name == PICKLED_FILE:
        return Recognised(
            "peft weights",
            "a PEFT folder's pickle",
            "PEFT's save_pretrained(folder, safe_serialization=True), then jumplora convert peft",
        )
    if path.name.startswith("pytorch_model"):
        return Recognised(
            "pickled weights",
            "a model's pickled weights",
            f"jumplora import-backbone {_shown(path.parent)}",
        )
    return Recognised(
        "official",
        "a torch file",
        f"jumplora convert official {_shown(path)}, if it is a jumplora_weights.pt",
    )


def _is_archive(start: bytes) -> bool:
    try:
        return kind_of(start) != "adapter"
    except WrongFile:
        return False


def _opened(path: Path) -> BufferedReader:
    return os.fdopen(open_regular(path, follow_links=True), "rb")


def _header(file: BufferedReader) -> dict[str, object] | None:
    """The header of a safetensors file, else None."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= MAX_HEADER_BYTES:
        return None
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None


def _shown(path: Path) -> str:
    return printable(shlex.quote(str(path)))
