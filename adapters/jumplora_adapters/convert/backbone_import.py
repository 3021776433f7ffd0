"""Make a safetensors folder of a T5 backbone that comes as `pytorch_model.bin`.

The tensors keep their values and dtypes; the names that T5 files repeat (the shared embedding
under up to four names) are reduced to the ones that carry information, as transformers does.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from jumplora_adapters.architecture import Architecture, read_architecture
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.checkpoint import (
    has_safetensors,
    have_equal_rows,
    open_checkpoint,
    parameter_name,
    refuse_other_weights,
)
from jumplora_adapters.convert.class_tokenizer import (
    OF_BYTES,
    OF_PAIRS,
    PAIR_FILES,
    make_class_tokenizer,
    stated_class,
)
from jumplora_adapters.convert.pickled import load_pickled
from jumplora_adapters.convert.spiece import make_tokenizer
from jumplora_adapters.convert.spiece_battery import check_equal
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.generation import read_generation
from jumplora_adapters.network import Parameters, parameters

SINGLE_FILE = "pytorch_model.bin"
INDEX_FILE = "pytorch_model.bin.index.json"
COPIED_FILES = (
    "config.json",
    "generation_config.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    *PAIR_FILES,
    "README.md",
    "LICENSE",
)
MAX_SHARD_BYTES = 5 * 1000**3

TokenizerOrigin = Literal["copied", "made", "missing"]


@dataclass(frozen=True, slots=True)
class ImportedBackbone:
    """What `import_backbone` wrote."""

    folder: Path
    tensors: int
    nbytes: int
    dropped: tuple[str, ...]  # names that only repeated another tensor, or mean nothing
    tokenizer: TokenizerOrigin


def import_backbone(
    source: Path, folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> ImportedBackbone:
    """Read `source` (config.json and pytorch_model.bin, maybe sharded), write `folder`.

    Where `source` has safetensors, too, those are read, as everywhere else.
    `folder` must not exist or be empty; it appears complete or not at all. Raises ConvertError,
    or BackboneError where the result would not be a usable backbone.
    """
    # Both refuse what could not be served: other families, code, penalties and the like.
    architecture = read_architecture(source)
    read_generation(source, architecture.vocab_size)
    refuse_other_weights(source)
    _check_has_tokenizer(source)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConvertError(f"{folder} exists and is not an empty folder: choose a new one")
    tensors = (
        _load_safetensors(source, architecture) if has_safetensors(source) else _load_state(source)
    )
    dropped = _drop_repeats(tensors, parameters(architecture))
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        work.chmod(0o755)  # mkdtemp makes private folders; a backbone is read by the server's user
        _write_shards(work, tensors, max_shard_bytes)
        for name in COPIED_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, work / name)
        tokenizer = _complete_tokenizer(work, architecture.vocab_size)
        read_backbone(work)  # raises unless every tensor is there in its shape, and no other
        if folder.exists():
            folder.rmdir()
        work.rename(folder)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    nbytes = sum(tensor.nbytes for tensor in tensors.values())
    return ImportedBackbone(folder, len(tensors), nbytes, dropped, tokenizer)


def _load_safetensors(source: Path, architecture: Architecture) -> dict[str, Tensor]:
    """All tensors by name, sorted, each once; views of the files."""
    checkpoint = open_checkpoint(source, parameters(architecture))
    # Of tied parameters, the name that comes last is kept: the first of `tied` where it is there.
    names = {place: name for name, place in sorted(checkpoint.places.items())}
    return dict(sorted(checkpoint.tensors(names.values())))


def _load_state(source: Path) -> dict[str, Tensor]:
    """All tensors of the checkpoint by name, sorted; files may be memory-mapped."""
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(source):
        state = load_pickled(path)
        if not isinstance(state, Mapping):
            raise ConvertError(f"{path} holds a {type(state).__name__}, expected named tensors")
        for name, tensor in state.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise ConvertError(f"{path} holds {name!r}, which is not a named tensor")
            parameter = parameter_name(name)
            if parameter in tensors:
                raise ConvertError(f"{path} repeats the tensor {parameter!r}")
            tensors[parameter] = tensor.detach()
    return dict(sorted(tensors.items()))


def _weight_files(source: Path) -> tuple[Path, ...]:
    """The .bin files of the folder in a fixed order."""
    if (source / SINGLE_FILE).is_file():
        return (source / SINGLE_FILE,)
    index = source / INDEX_FILE
    if not index.is_file():
        raise ConvertError(f"{source} has neither {SINGLE_FILE} nor {INDEX_FILE}")
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConvertError(f"{index} has no weight_map of tensor name -> file") from error
    for name in names:
        if Path(name).name != name:
            raise ConvertError(f"{index} names the shard {name!r}, which is not in its own folder")
    return tuple(source / name for name in names)


def _drop_repeats(tensors: dict[str, Tensor], known: Parameters) -> tuple[str, ...]:
    """Remove what only repeats the embedding, in place; the removed names.

    What differs from it stays: transformers 5 does not tie it, whatever `tie_word_embeddings` says.
    """
    dropped = [name for name in known.obsolete if tensors.pop(name, None) is not None]
    shared, *others = known.tied
    first = next((name for name in known.tied if name in tensors), None)
    if first is None:
        raise ConvertError(f"the checkpoint has no {shared!r}: not a T5 model")
    embedding = tensors[shared] = tensors[first]
    if embedding.ndim != 2:
        raise ConvertError(f"{first} has the shape {list(embedding.shape)}, expected a matrix")
    for name in others:
        other = tensors.get(name)
        if other is None or other.shape != embedding.shape:
            continue
        if have_equal_rows(other, embedding, len(embedding)):
            del tensors[name]
            dropped.append(name)
    return tuple(sorted(dropped))


def _write_shards(folder: Path, tensors: Mapping[str, Tensor], max_bytes: int) -> None:
    """One model.safetensors, or several with the index that transformers reads."""
    shards = list(_shards(tensors, max_bytes))
    metadata = {"format": "pt"}
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = (
            "model.safetensors"
            if len(shards) == 1
            else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        # clone: an untied head may still share its storage with the embedding.
        state = {name: tensors[name].contiguous().clone() for name in names}
        save_file(state, folder / file, metadata)
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _shards(tensors: Mapping[str, Tensor], max_bytes: int) -> Iterator[list[str]]:
    """Names in order, cut so that a shard holds at most `max_bytes` or a single tensor."""
    names: list[str] = []
    held = 0
    for name, tensor in tensors.items():
        if names and held + tensor.nbytes > max_bytes:
            yield names
            names, held = [], 0
        names.append(name)
        held += tensor.nbytes
    if names:
        yield names


def _check_has_tokenizer(source: Path) -> None:
    """Raise ConvertError where there is nothing that a tokenizer.json could be made of."""
    if any((source / name).is_file() for name in ("tokenizer.json", "spiece.model")):
        return
    if stated_class(source) is None:
        raise ConvertError(
            f"{source} has no tokenizer: one of tokenizer.json, spiece.model is needed, or, as "
            f"tokenizer_class in tokenizer_config.json, {OF_BYTES} (of ByT5) or {OF_PAIRS[0]} (of "
            f"CodeT5, with {' and '.join(PAIR_FILES)})"
        )


def _complete_tokenizer(folder: Path, rows: int) -> TokenizerOrigin:
    """Write tokenizer.json where it is missing and there is something to make it of.

    Raises ConvertError where it would not read and write as the folder's own tokenizer does.
    """
    if (folder / "tokenizer.json").is_file():
        return "copied"
    tokenizer = _made_tokenizer(folder, rows)
    if tokenizer is None:
        return "missing"
    tokenizer.save(str(folder / "tokenizer.json"))
    return "made"


def _made_tokenizer(folder: Path, rows: int) -> Tokenizer | None:
    """Of spiece.model, or of a class of transformers that has no such file; None without either.

    None, too, where SentencePiece is not installed.
    """
    if not (folder / "spiece.model").is_file():
        name = stated_class(folder)
        return None if name is None else make_class_tokenizer(folder, name)
    try:
        from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2  # an extra
    except ImportError:
        return None
    content = (folder / "spiece.model").read_bytes()
    try:
        SentencePieceProcessor(model_proto=content)  # looks at all of it
    except RuntimeError as error:
        raise ConvertError(f"spiece.model is not a SentencePiece model: {error}") from error
    model = sentencepiece_model_pb2.ModelProto.FromString(content)
    tokenizer = make_tokenizer(model, folder, rows)
    check_equal(tokenizer, model)
    return tokenizer
