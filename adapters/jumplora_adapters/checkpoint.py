"""Which file of a checkpoint folder holds which parameter, as transformers loads the folder.

Only safetensors files are opened. Opening a checkpoint reads headers; tensors come one at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jumplora_adapters.errors import BackboneError
from jumplora_adapters.network import Parameters
from jumplora_adapters.peft_files import CONFIG_FILE

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_JSON_BYTES = 64 * 1024 * 1024

_PREFIX = "transformer."  # of files saved under a head for classification
_DTYPES = ("F64", "F32", "F16", "BF16")
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_ROWS_AT_ONCE = 4096  # of two embeddings that are compared


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies: a safetensors file and the tensor's name there."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str  # as safetensors writes it: F32


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Every parameter of a network and its place; tied parameters have the same one."""

    places: Mapping[str, Place]

    def tensors(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor as it is stored, one after another; by default of all parameters.

        A tensor is a view of its file, which stays mapped as long as the tensor lives: copy what is
        kept. Raises BackboneError.
        """
        wanted = self.places if names is None else names
        with ExitStack() as stack:
            files: dict[Path, Any] = {}
            for name in wanted:
                place = self.places[name]
                try:
                    if place.file not in files:
                        files[place.file] = stack.enter_context(_open(place.file))
                    tensor = files[place.file].get_tensor(place.name)
                except (OSError, SafetensorError) as error:
                    raise BackboneError(f"{place.file} cannot be read: {error}") from error
                yield name, tensor


def open_checkpoint(folder: Path, parameters: Parameters) -> Checkpoint:
    """Find every parameter of a network.

    Raises BackboneError when one is missing, misshapen or not floating point, and for a tensor that
    is none of them.
    """
    shapes, tied = parameters.shapes, parameters.tied
    found = _found(weight_files(folder))
    unknown = sorted(found.keys() - shapes.keys() - parameters.obsolete)
    if unknown:
        raise BackboneError(
            f"{folder} holds {unknown[0]}, which does not belong to this architecture"
            + (f", and {len(unknown) - 1} more such tensors" if unknown[1:] else "")
        )
    places = {name: found[name] for name in shapes if name in found}
    missing = [name for name in shapes if name not in places and name not in tied]
    stand_in = next((places[name] for name in tied if name in places), None)
    if stand_in is None:
        missing.insert(0, tied[0])
    if missing or stand_in is None:
        raise BackboneError(f"{folder} lacks {len(missing)} tensors, first {missing[0]}")
    for name, place in places.items():
        if place.shape != shapes[name] or place.dtype not in _DTYPES:
            raise BackboneError(
                f"{place.name} of {place.file} is {place.dtype} {list(place.shape)}; the "
                f"configuration asks for {list(shapes[name])} of {', '.join(_DTYPES)}"
            )
    for name in tied:
        place = places.setdefault(name, stand_in)
        if place != stand_in and _are_equal(place, stand_in):
            places[name] = stand_in
    return Checkpoint(MappingProxyType(places))


def parameter_name(name: str) -> str:
    """What a tensor of that name in a file is a value of."""
    return name.removeprefix(_PREFIX)


def has_safetensors(folder: Path) -> bool:
    """Whether weights are read from safetensors, so that .bin files beside do not count."""
    return (folder / SINGLE_FILE).is_file() or (folder / INDEX_FILE).is_file()


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that are read, sorted: model.safetensors, else those of the index.

    A tensor that two files hold is the last one's. Raises BackboneError.
    """
    refuse_other_weights(folder)
    if (folder / SINGLE_FILE).is_file():
        return (folder / SINGLE_FILE,)
    if (folder / INDEX_FILE).is_file():
        return _shards(folder)
    if any(folder.glob("*.bin")):
        raise BackboneError(
            f"{folder} has its weights as .bin (pickle), which is never loaded: convert it once "
            "with `jumplora import-backbone`"
        )
    raise BackboneError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}")


def refuse_other_weights(folder: Path) -> None:
    """Raise BackboneError for weights that transformers would take first, or add."""
    for path in sorted(folder.iterdir()):
        if _DISTRIBUTED.fullmatch(path.name):
            raise BackboneError(
                f"{path} is of a distributed checkpoint, which transformers reads before "
                f"{SINGLE_FILE}: save the model whole, or move the file away"
            )
        if path.name == CONFIG_FILE:
            raise BackboneError(
                f"{path} is of a LoRA, which transformers adds to the weights of its folder: move "
                "it to a folder of its own, and convert it with `jumplora convert peft`"
            )


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


def _shards(folder: Path) -> tuple[Path, ...]:
    weight_map = read_json_object(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BackboneError(f"{folder / INDEX_FILE} has no weight_map")
    for file in weight_map.values():
        if (
            not isinstance(file, str)
            or Path(file).name != file
            or not file.endswith(".safetensors")
        ):
            raise BackboneError(f"{INDEX_FILE} names {file!r}: only *.safetensors beside it")
        if not (folder / file).is_file():
            raise BackboneError(f"{folder / INDEX_FILE} names {file}, which is not there")
    return tuple(folder / file for file in sorted(set(weight_map.values())))


def _found(files: Iterable[Path]) -> dict[str, Place]:
    """Every tensor of the files by its parameter's name, whatever an index says of it."""
    found: dict[str, Place] = {}
    for path in files:
        try:
            with _open(path) as file:
                for name in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                    view = file.get_slice(name)
                    parameter = parameter_name(name)
                    if parameter in found and found[parameter].name != name:
                        raise BackboneError(
                            f"{path} and {found[parameter].file} hold {parameter} under two names, "
                            f"{name} and {found[parameter].name}: remove one"
                        )
                    shape, dtype = tuple(view.get_shape()), view.get_dtype()
                    found[parameter] = Place(path, name, shape, dtype)
        except (OSError, SafetensorError) as error:
            raise BackboneError(f"{path} is not a safetensors file: {error}") from error
    return found


def have_equal_rows(one: Any, other: Any, rows: int) -> bool:
    """Whether two tensors of one shape, or slices of files, are equal as float32.

    transformers compares them so. A few rows at a time, since a copy of each could be gigabytes.
    """
    return all(
        torch.equal(
            one[start : start + _ROWS_AT_ONCE].float(),
            other[start : start + _ROWS_AT_ONCE].float(),
        )
        for start in range(0, rows, _ROWS_AT_ONCE)
    )


def _are_equal(one: Place, other: Place) -> bool:
    """Whether two matrices of one shape have equal values."""
    try:
        with _open(one.file) as first, _open(other.file) as second:
            ours, theirs = first.get_slice(one.name), second.get_slice(other.name)
            return have_equal_rows(ours, theirs, one.shape[0])
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"{one.file} cannot be read: {error}") from error


def _open(path: Path) -> Any:  # the library's methods have no types
    return safe_open(path, framework="pt")
