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

import torch
from safetensors.torch import save_file
from torch import Tensor

from jumplora_adapters.backbone import read_architecture, read_backbone
from jumplora_adapters.checkpoint import read_json_object
from jumplora_adapters.convert.pickled import load_pickled
from jumplora_adapters.convert.spiece import make_tokenizer
from jumplora_adapters.convert.spiece_battery import check_equal
from jumplora_adapters.errors import ConvertError

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
    "README.md",
    "LICENSE",
)
SHARED = "shared.weight"
EMBEDDING_ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
HEAD = "lm_head.weight"
# Left over in the published T5 files; no T5 implementation has a layer for it.
OBSOLETE = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
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

    `folder` must not exist or be empty; it appears complete or not at all. Raises ConvertError,
    or BackboneError where the result would not be a usable backbone.
    """
    config = read_json_object(source / "config.json")
    rows = read_architecture(config)[
        "vocab_size"
    ]  # refuses other families and folders that bring code
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConvertError(f"{folder} exists and is not an empty folder: choose a new one")
    tensors = _load_state(source)
    dropped = _drop_repeats(tensors, tied=config.get("tie_word_embeddings") is not False)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        work.chmod(0o755)  # mkdtemp makes private folders; a backbone is read by the server's user
        _write_shards(work, tensors, max_shard_bytes)
        for name in COPIED_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, work / name)
        tokenizer = _complete_tokenizer(work, int(str(rows)))
        read_backbone(work)  # raises unless every target is there in its shape
        if folder.exists():
            folder.rmdir()
        work.rename(folder)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    nbytes = sum(tensor.nbytes for tensor in tensors.values())
    return ImportedBackbone(folder, len(tensors), nbytes, dropped, tokenizer)


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
            if name in tensors:
                raise ConvertError(f"{path} repeats the tensor {name!r} of an earlier shard")
            tensors[name] = tensor.detach()
    return dict(sorted(tensors.items()))


def _weight_files(source: Path) -> tuple[Path, ...]:
    """The .bin files of the folder in a fixed order."""
    if (source / SINGLE_FILE).is_file():
        return (source / SINGLE_FILE,)
    index = source / INDEX_FILE
    if not index.is_file():
        found = " (it has safetensors already)" if any(source.glob("*.safetensors")) else ""
        raise ConvertError(f"{source} has neither {SINGLE_FILE} nor {INDEX_FILE}{found}")
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConvertError(f"{index} has no weight_map of tensor name -> file") from error
    for name in names:
        if Path(name).name != name:
            raise ConvertError(f"{index} names the shard {name!r}, which is not in its own folder")
    return tuple(source / name for name in names)


def _drop_repeats(tensors: dict[str, Tensor], *, tied: bool) -> tuple[str, ...]:
    """Remove what repeats the shared embedding, in place; the removed names.

    The two embed_tokens are the shared embedding in every T5. A head that differs stays: that is
    how transformers 5 tells an untied one, whatever `tie_word_embeddings` says.
    """
    if SHARED not in tensors:
        alias = next((name for name in EMBEDDING_ALIASES if name in tensors), None)
        if alias is None:
            raise ConvertError(f"the checkpoint has no {SHARED!r}: not a T5 model")
        tensors[SHARED] = tensors[alias]
    dropped = [name for name in OBSOLETE if tensors.pop(name, None) is not None]
    for name in EMBEDDING_ALIASES:
        if name in tensors and not torch.equal(tensors[name], tensors[SHARED]):
            raise ConvertError(
                f"{name!r} differs from {SHARED!r}, which T5 models share: what a library makes of"
                " such a file is anybody's guess, so it is refused"
            )
        if tensors.pop(name, None) is not None:
            dropped.append(name)
    if tied and HEAD in tensors and torch.equal(tensors[HEAD], tensors[SHARED]):
        del tensors[HEAD]
        dropped.append(HEAD)
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


def _complete_tokenizer(folder: Path, rows: int) -> TokenizerOrigin:
    """Write tokenizer.json from spiece.model where it is missing and SentencePiece is installed.

    Raises ConvertError where it would not read and write as SentencePiece does.
    """
    if (folder / "tokenizer.json").is_file():
        return "copied"
    if not (folder / "spiece.model").is_file():
        return "missing"
    try:
        from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2  # an extra
    except ImportError:
        return "missing"
    content = (folder / "spiece.model").read_bytes()
    try:
        SentencePieceProcessor(model_proto=content)  # looks at all of it
    except RuntimeError as error:
        raise ConvertError(f"spiece.model is not a SentencePiece model: {error}") from error
    model = sentencepiece_model_pb2.ModelProto.FromString(content)
    tokenizer = make_tokenizer(model, folder, rows)
    check_equal(tokenizer, model)
    tokenizer.save(str(folder / "tokenizer.json"))
    return "made"
