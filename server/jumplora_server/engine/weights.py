"""A Hugging Face T5 folder as checked tensors: safetensors only, strict names, nothing executed.

Knows the checkpoint's layout; knows nothing of batches, caches or adapters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

MAX_D_MODEL = 65_535  # a column of a delta is 2 bytes
# Of attention and feed-forward: sums of so many 8-bit products fit 32 bits, with room to spare.
MAX_WIDTH = 65_536
_WHOLE = (
    "vocab_size",
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_decoder_layers",
    "num_heads",
    "num_buckets",
    "max_distance",
)
FEED_FORWARDS = ("relu", "gated-gelu")
# Present in some checkpoints, never used: aliases of `shared`, and a bias that T5 v1.0 saved for
# its first cross-attention but does not read.
IGNORED = frozenset(
    {
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
    }
)


class CheckpointError(Exception):
    """The folder is not a T5 checkpoint that this engine can serve."""


@dataclass(frozen=True, slots=True)
class T5Config:
    """The sizes and switches of one T5, T5 v1.1 / Flan-T5 or mT5 backbone."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_decoder_layers: int
    num_heads: int
    num_buckets: int
    max_distance: int
    epsilon: float
    feed_forward: Literal["relu", "gated-gelu"]
    logit_scale: float  # d_model ** -0.5 for checkpoints with the original tied head, else 1

    @property
    def inner(self) -> int:
        """Width of the attention projections: num_heads * d_kv."""
        return self.num_heads * self.d_kv


def read_config(folder: Path) -> T5Config:
    """Read `config.json`.

    Raises:
        CheckpointError: missing file, another architecture, remote code, unknown feed-forward,
            sizes that are not whole numbers or that the kernels cannot hold.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"no config.json in {folder}; a backbone is a local Hugging Face folder"
        )
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "auto_map" in raw:
        raise CheckpointError(f"{path} asks for remote code (auto_map), which is never executed")
    model_type = raw.get("model_type")
    if model_type not in ("t5", "mt5"):
        raise CheckpointError(f"{path} has model_type {model_type!r}; allowed are t5 and mt5")
    feed_forward = raw.get("feed_forward_proj", "relu" if model_type == "t5" else "gated-gelu")
    if feed_forward not in FEED_FORWARDS:
        raise CheckpointError(
            f"{path} has feed_forward_proj {feed_forward!r}; allowed are {', '.join(FEED_FORWARDS)}"
        )
    try:
        config = T5Config(
            vocab_size=raw["vocab_size"],
            d_model=raw["d_model"],
            d_kv=raw["d_kv"],
            d_ff=raw["d_ff"],
            num_layers=raw["num_layers"],
            num_decoder_layers=raw.get("num_decoder_layers") or raw["num_layers"],
            num_heads=raw["num_heads"],
            num_buckets=raw.get("relative_attention_num_buckets", 32),
            max_distance=raw.get("relative_attention_max_distance", 128),
            epsilon=raw.get("layer_norm_epsilon", 1e-6),
            feed_forward=feed_forward,
            logit_scale=1.0,
        )
    except KeyError as missing:
        raise CheckpointError(f"{path} lacks {missing}") from missing
    _check_sizes(path, config)
    if _scales_logits(raw):
        config = replace(config, logit_scale=config.d_model**-0.5)
    return config


def _check_sizes(path: Path, config: T5Config) -> None:
    for name in _WHOLE:
        value = getattr(config, name)
        # type(): JSON's true is an int to Python
        if type(value) is not int or value < 1:
            raise CheckpointError(f"{path} has {name} {value!r}; a whole number from 1 is allowed")
    for name, value, most in (
        ("d_model", config.d_model, MAX_D_MODEL),
        ("d_ff", config.d_ff, MAX_WIDTH),
        ("num_heads * d_kv", config.inner, MAX_WIDTH),
    ):
        if value > most:
            raise CheckpointError(f"{path} has {name} {value}; at most {most} is allowed")


def _scales_logits(raw: dict[str, Any]) -> bool:
    # The original T5 multiplies the decoder output by d_model ** -0.5 before its tied head. v1.1
    # does not, and says so by tie_word_embeddings=false; since transformers 5 saved configs carry
    # scale_decoder_outputs, because they always write tie_word_embeddings=true. mT5 never scales.
    if raw["model_type"] == "mt5":
        return False
    explicit = raw.get("scale_decoder_outputs")
    return bool(explicit) if explicit is not None else raw.get("tie_word_embeddings") is not False


def expected_shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
    """Every parameter that a checkpoint of this config must hold, `lm_head.weight` excepted."""
    d, inner, ff = config.d_model, config.inner, config.d_ff
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (config.vocab_size, d)}
    wide = ("wi",) if config.feed_forward == "relu" else ("wi_0", "wi_1")
    for stack, layers in (("encoder", config.num_layers), ("decoder", config.num_decoder_layers)):
        attentions = (
            ("SelfAttention",) if stack == "encoder" else ("SelfAttention", "EncDecAttention")
        )
        for block in range(layers):
            base = f"{stack}.block.{block}.layer"
            for position, attention in enumerate(attentions):
                for name in ("q", "k", "v"):
                    shapes[f"{base}.{position}.{attention}.{name}.weight"] = (inner, d)
                shapes[f"{base}.{position}.{attention}.o.weight"] = (d, inner)
                shapes[f"{base}.{position}.layer_norm.weight"] = (d,)
            last = len(attentions)
            for name in wide:
                shapes[f"{base}.{last}.DenseReluDense.{name}.weight"] = (ff, d)
            shapes[f"{base}.{last}.DenseReluDense.wo.weight"] = (d, ff)
            shapes[f"{base}.{last}.layer_norm.weight"] = (d,)
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        shapes[bias] = (config.num_buckets, config.num_heads)
        shapes[f"{stack}.final_layer_norm.weight"] = (d,)
    return shapes


class StoredTensors(Mapping[str, Tensor]):
    """A checkpoint's tensors in their stored dtypes, each read whenever it is asked for.

    What is read is a copy and nothing is mapped, so a tensor that is kept keeps nothing but itself,
    and a load needs room for one tensor beside what it makes of them.
    """

    def __init__(self) -> None:
        self._places: dict[str, tuple[Any, str]] = {}  # a safe_open, which has no types

    def put(self, name: str, file: Any, stored: str) -> None:
        """`name` is what `file` calls `stored`; the file must be read by pread, not mapped."""
        self._places[name] = file, stored

    def share(self, name: str, other: str) -> None:
        """`name` is the same tensor as `other`."""
        self._places[name] = self._places[other]

    def __getitem__(self, name: str) -> Tensor:
        """Read it. Raises CheckpointError where the file cannot be read any more."""
        file, stored = self._places[name]
        try:
            tensor: Tensor = file.get_tensor(stored)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{stored} cannot be read: {error}") from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places  # Mapping's own would read it


def read_weights(folder: Path, config: T5Config) -> StoredTensors:
    """Check every parameter's name and shape; `lm_head.weight` falls back to the shared one.

    Raises:
        CheckpointError: no safetensors, missing, unexpected or misshapen parameters.
    """
    expected = expected_shapes(config)
    expected["lm_head.weight"] = (config.vocab_size, config.d_model)
    weights = StoredTensors()
    for name, file in _stored(folder):
        if name in IGNORED:
            continue
        if name not in expected:
            raise CheckpointError(f"{folder} holds {name}, which is no part of this architecture")
        shape = tuple(file.get_slice(name).get_shape())
        if shape != expected[name]:
            raise CheckpointError(f"{name} has shape {shape}; the config says {expected[name]}")
        weights.put(name, file, name)
    if "shared.weight" in weights and "lm_head.weight" not in weights:
        weights.share("lm_head.weight", "shared.weight")
    missing = sorted(expected.keys() - weights.keys())
    if missing:
        raise CheckpointError(f"{folder} lacks {len(missing)} parameters, first {missing[0]}")
    return weights


def _stored(folder: Path) -> Iterator[tuple[str, Any]]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    for name in names:
        path = folder / name
        if path.parent != folder or not path.is_file():
            raise CheckpointError(
                f"{path} does not exist; only safetensors are read "
                "(`jumplora import-backbone` makes them from .bin files)"
            )
        # Not mapped: a tensor of a mapped file is a view that keeps all of the file in memory.
        file: Any = safe_open(path, framework="pt", backend="pread")
        for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
            yield key, file


def stacked(weights: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Weights [d_out, d_in] one below another, so that one product serves them all."""
    if len(names) == 1:
        return weights[names[0]]
    return torch.cat([weights[name] for name in names])


def to_dtype(name: str) -> torch.dtype:
    """The arithmetic dtype of a `dtype` setting: int8 computes its rest in float32."""
    return {"float32": torch.float32, "int8": torch.float32, "bfloat16": torch.bfloat16}[name]
