"""The identity of a backbone: what must be the same for an adapter to mean the same.

FORMAT.md defines it. Architecture, tokenizer and the weights that adapters add to; not the way the
weights are split over files, nor formatting of JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from jumplora_adapters.checkpoint import Checkpoint, read_json_object
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


def weight_digests(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 (hex) of each tensor as little-endian float32, one tensor in memory at a time."""
    return {
        name: hashlib.sha256(tensor.float().contiguous().numpy().data).hexdigest()
        for name, tensor in checkpoint.tensors(names)
    }


def _canonical(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.encode()
