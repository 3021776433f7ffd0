"""The identity of a backbone: what must be the same for an adapter to mean the same.

FORMAT.md defines both versions. Neither depends on how weights are split over files, nor on the
formatting of JSON. Version 1 knows the weights of q and v alone, version 2 all that decides an
answer; it does not depend on what adapters may target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from jumplora_adapters.architecture import Architecture
from jumplora_adapters.checkpoint import Checkpoint, Place
from jumplora_adapters.errors import BackboneError
from jumplora_adapters.generation import Generation
from jumplora_adapters.tokenizer_files import TokenizerIdentity, canonical

FINGERPRINT_VERSION = 2
ARCHITECTURE_FIELDS = (
    "model_type", "d_model", "d_kv", "d_ff", "num_heads", "num_layers", "vocab_size",
    "num_decoder_layers", "relative_attention_num_buckets", "relative_attention_max_distance",
    "layer_norm_epsilon", "feed_forward_proj", "scales_decoder_outputs",
)  # fmt: skip
"""What of the architecture counts: a field that is added later is not part of these versions."""

_PART_BYTES = 16 * 1024 * 1024  # of a tensor in float32 that are in memory at once, per thread
_MOST_THREADS = 8


def fingerprint_of(
    architecture: Architecture,
    tokenizer: TokenizerIdentity,
    generation: Generation,
    weights: Mapping[str, str],
) -> str:
    """The fingerprint of version 2, SHA-256 (hex). `weights` has every parameter's digest."""
    content = {
        "architecture": _described(architecture),
        "cleans_spaces": tokenizer.cleans_spaces,
        "end_token": tokenizer.end,
        "end_token_ids": sorted(set(generation.end_token_ids)),
        "fingerprint_version": FINGERPRINT_VERSION,
        "special_tokens": list(tokenizer.special),
        "start_token_id": generation.start_token_id,
        "tokenizer": tokenizer.digest,
        "weights": dict(weights),
    }
    return hashlib.sha256(canonical(content)).hexdigest()


def fingerprint_1_of(
    architecture: Architecture,
    tokenizer: TokenizerIdentity,
    weights: Mapping[str, str],
    targets: Iterable[str],
) -> str:
    """The fingerprint of version 1. `targets` are those of version 1: all q and v."""
    content = {
        "architecture": _described(architecture),
        "fingerprint_version": 1,
        "tokenizer": tokenizer.digest,
        "weights": {f"{name}.weight": weights[f"{name}.weight"] for name in targets},
    }
    return hashlib.sha256(canonical(content)).hexdigest()


def weight_digests(checkpoint: Checkpoint, *, threads: int | None = None) -> dict[str, str]:
    """SHA-256 (hex) of every parameter as little-endian float32, row-major, by its name.

    Tensors are read in parts, by as many threads as torch has. Raises BackboneError.
    """
    count = threads or min(_MOST_THREADS, torch.get_num_threads())
    largest_first = sorted(
        set(checkpoint.places.values()),
        key=lambda place: (-_size(place), str(place.file), place.name),
    )
    shares = [share for i in range(count) if (share := largest_first[i::count])]
    digests: dict[Place, str] = {}
    with ThreadPoolExecutor(count) as pool:
        for found in pool.map(_digests, shares):
            digests |= found
    return {name: digests[place] for name, place in checkpoint.places.items()}


def _described(architecture: Architecture) -> dict[str, object]:
    return {name: getattr(architecture, name) for name in ARCHITECTURE_FIELDS}


def _size(place: Place) -> int:
    size = 1
    for length in place.shape:
        size *= length
    return size


def _digests(places: Iterable[Place]) -> dict[Place, str]:
    digests: dict[Place, str] = {}
    with ExitStack() as stack:
        files: dict[Path, Any] = {}  # the library's methods have no types
        for place in places:
            hasher = hashlib.sha256()
            try:
                if place.file not in files:
                    files[place.file] = stack.enter_context(safe_open(place.file, framework="pt"))
                for part in _parts(files[place.file], place):
                    hasher.update(part)
            except (OSError, SafetensorError) as error:
                raise BackboneError(f"{place.file} cannot be read: {error}") from error
            digests[place] = hasher.hexdigest()
    return digests


def _parts(file: Any, place: Place) -> Iterator[memoryview]:
    """The bytes of a tensor in float32, some rows at a time."""
    tensor = file.get_slice(place.name)
    rows = place.shape[0]
    at_once = max(1, _PART_BYTES // (4 * max(1, _size(place) // max(1, rows))))
    for start in range(0, rows, at_once):
        yield tensor[start : start + at_once].float().contiguous().numpy().data
