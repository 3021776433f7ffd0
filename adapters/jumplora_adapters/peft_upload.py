"""From a PEFT folder, or an archive of one, to an adapter file in a store.

The conversion is `convert.peft`'s. Here are what it is run on, where its files lie, and the limits
on what comes from another machine.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from jumplora_adapters.archives.unpack import unpack
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.errors import ArchiveTooLarge, ConvertError
from jumplora_adapters.file_kind import ArchiveKind
from jumplora_adapters.header import (
    MAX_DIMENSION,
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    fault_of_length,
)
from jumplora_adapters.incoming import Incoming
from jumplora_adapters.json_text import read_json
from jumplora_adapters.peft_files import CONFIG_FILE, WEIGHTS_FILE
from jumplora_adapters.printable import shown
from jumplora_adapters.store_files import store_errors

if TYPE_CHECKING:
    from jumplora_adapters.store import Store

MAX_SHOWN = 80
_COPY_BYTES = 1024 * 1024
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class MadeFrom:
    """What an adapter was made of, and what its maker should look at."""

    peft_type: str
    warnings: tuple[str, ...]
    format: Literal["peft"] = "peft"


@dataclass(frozen=True, slots=True)
class Made:
    """An adapter file to be adopted, finished; the caller discards it."""

    incoming: Incoming
    made_from: MadeFrom


def make_from_archive(
    store: Store, archive: BinaryIO, kind: ArchiveKind, task: str, backbone: Backbone
) -> Made:
    """Make an adapter of the PEFT folder in an archive of another machine.

    Equal folders of one name give equal files, in whichever archive they come. Raises ArchiveError,
    WrongFile, ConvertError, FormatError, StoreError; nothing is left behind but what is returned.
    """
    with store_errors(), store.staging() as place:
        folder = unpack(archive, kind, place, store.max_file_bytes)
        _check_weights(folder / WEIGHTS_FILE, store.max_file_bytes)
        try:
            out, made_from = _convert(folder, place, task, backbone, trusted=False)
        except ConvertError as error:  # without this machine's folders
            said = str(error).replace(f"{folder}/", "").replace(str(folder), folder.name)
            raise ConvertError(said) from error
        shutil.rmtree(folder)  # there is a copy to be made, and it needs room
        return Made(_copied(store, out), made_from)


def make_from_folder(store: Store, folder: Path, task: str, backbone: Backbone) -> Made:
    """Make an adapter of a PEFT folder of this machine. Raises as `make_from_archive`."""
    with store_errors(), store.staging() as place:
        out, made_from = _convert(folder, place, task, backbone, trusted=True)
        return Made(_copied(store, out), made_from)


def _convert(
    folder: Path, place: Path, task: str, backbone: Backbone, *, trusted: bool
) -> tuple[Path, MadeFrom]:
    # Imported late: only those who convert need it.
    from jumplora_adapters.convert.draft import Draft
    from jumplora_adapters.convert.form import Form
    from jumplora_adapters.convert.peft import convert_peft
    from jumplora_adapters.convert.peft_config import read_peft_config

    # Without a date, so that the same folder sent again is the same version.
    draft = Draft(task=task, created="")
    out = place / "made.safetensors"
    converted = convert_peft(folder, out, draft, backbone, Form(), trusted=trusted)
    peft_type = shown(str(read_peft_config(folder / CONFIG_FILE)["peft_type"]), MAX_SHOWN)
    return out, MadeFrom(peft_type, converted.warnings)


def _copied(store: Store, path: Path) -> Incoming:
    incoming = store.incoming()
    try:
        with path.open("rb") as source:
            while piece := source.read(_COPY_BYTES):
                incoming.write(piece)
        incoming.finish()
    except BaseException:
        incoming.discard()
        raise
    return incoming


def _check_weights(path: Path, max_bytes: int) -> None:
    """Refuse a file whose header or numbers would take more memory than an adapter may.

    What is in the header is only counted: conversion checks it. Raises ConvertError and
    ArchiveTooLarge.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ConvertError(f"{path.name}: {fault_of_length(length, file.read(1))}")
        try:
            header = read_json(file.read(length).decode("utf-8"))
        except ValueError as error:
            raise ConvertError(
                f"{path.name}: the header cannot be read: {shown(str(error), MAX_SHOWN)}"
            ) from error
    if not isinstance(header, dict):
        raise ConvertError(f"{path.name}: the header holds no object")
    if len(header) > MAX_TENSORS:
        raise ConvertError(f"{path.name}: {len(header)} tensors; at most {MAX_TENSORS} are allowed")
    size = sum(4 * _count(entry) for entry in header.values())
    if size > max_bytes:
        raise ArchiveTooLarge(
            f"{path.name}: its numbers take {size} bytes as float32; at most {max_bytes} are"
            " allowed"
        )


def _count(entry: object) -> int:
    """The numbers of a vector or matrix that will be float32; of anything else 0."""
    if not isinstance(entry, Mapping) or entry.get("dtype") not in _FLOATS:
        return 0
    shape = entry.get("shape")
    if not isinstance(shape, list) or not 1 <= len(shape) <= 2:
        return 0
    if any(type(size) is not int or not 0 <= size <= MAX_DIMENSION for size in shape):
        return 0
    return math.prod(shape)
