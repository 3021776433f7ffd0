"""The identity of a backbone: what must be the same for an adapter to mean the same.

FORMAT.md defines it. Architecture, tokenizer and the weights that adapters add to; not the way the
weights are split over files, nor formatting of JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from jumplora_adapters.checkpoint import read_json_object
from jumplora_adapters.errors import BackboneError

FINGERPRINT_VERSION = 1
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")


def fingerprint(
    architecture: Mapping[str, object], tokenizer_digest: str, weight_digests: Mapping[str, str]
) -> str:
    """SHA-256 (hex) of the canonical JSON of all three, and of this rule's version."""
    content = {
        "architecture": dict(architecture),
        "fingerprint_version": FINGERPRINT_VERSION,
        "tokenizer": tokenizer_digest,
        "weights": dict(weight_digests),
    }
    return hashlib.sha256(_canonical(content)).hexdigest()


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 (hex) of the tokenizer's content. Raises BackboneError when there is none.

    tokenizer.json counts as JSON, without `version`, `truncation` and `padding`, which depend on
    who saved it last; spiece.model counts as bytes and only where there is no tokenizer.json.
    """
    if (folder / "tokenizer.json").is_file():
        content = read_json_object(folder / "tokenizer.json")
        for key in ("version", "truncation", "padding"):
            content.pop(key, None)
        return hashlib.sha256(_canonical(content)).hexdigest()
    if (folder / "spiece.model").is_file():
        return hashlib.sha256((folder / "spiece.model").read_bytes()).hexdigest()
    raise BackboneError(f"{folder} has no tokenizer: one of {', '.join(TOKENIZER_FILES)} is needed")


def weight_digests(
    files: Mapping[str, Path], shapes: Mapping[str, tuple[int, int]]
) -> dict[str, str]:
    """SHA-256 (hex) of each tensor as little-endian float32, one tensor in memory at a time.

    `shapes` gives the expected shape per tensor name. Raises BackboneError when a tensor is
    missing, of another shape, or not floating point.
    """
    missing = [name for name in shapes if name not in files]
    if missing:
        raise BackboneError(f"the checkpoint lacks {len(missing)} tensors, first {missing[0]}")
    digests: dict[str, str] = {}
    try:
        with ExitStack() as stack:
            opened = {
                path: stack.enter_context(safe_open(path, framework="pt"))
                for path in sorted({files[name] for name in shapes})
            }
            for name, shape in shapes.items():
                digests[name] = _digest(name, opened[files[name]].get_tensor(name), shape)
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"the checkpoint's weights cannot be read: {error}") from error
    return digests


def _digest(name: str, tensor: torch.Tensor, shape: Sequence[int]) -> str:
    if tuple(tensor.shape) != tuple(shape) or not tensor.is_floating_point():
        raise BackboneError(
            f"{name} is {tensor.dtype} {list(tensor.shape)}; the configuration asks for floating "
            f"point {list(shape)}"
        )
    return hashlib.sha256(tensor.float().contiguous().numpy().data).hexdigest()


def _canonical(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.encode()
