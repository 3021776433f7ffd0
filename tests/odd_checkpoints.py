"""Checkpoint folders made in odd ways that transformers loads, by name.

To add one, write what is done to a plain folder and put it into CASES.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from factories import tiny_t5

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARED, HEAD = "shared.weight", "lm_head.weight"
ENCODER, DECODER = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"
OBSOLETE = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
Q = "encoder.block.0.layer.0.SelfAttention.q.weight"

Weights = dict[str, Tensor]
Change = Callable[[Path], object]


@dataclass(frozen=True, slots=True)
class OddCheckpoint:
    """How a plain folder is made, and what is then done to it."""

    change: Change | None = None
    plain: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Make the folder."""
        options: dict[str, Any] = {"layers": 1, "d_ff": 24, "vocab": 512, "seed": 5}
        tiny_t5(folder, **options | self.plain)
        if self.change is not None:
            self.change(folder)
        return folder


def change_json(path: Path, **changes: Any) -> None:
    """Replace fields of a JSON object; `...` removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: v for name, v in content.items() if v is not ...}))


def change_weights(folder: Path, change: Callable[[Weights], object]) -> None:
    """Replace tensors of model.safetensors."""
    weights = load_file(folder / SINGLE)
    change(weights)
    save_file({name: tensor.clone() for name, tensor in weights.items()}, folder / SINGLE)


def write_shards(
    folder: Path, shards: Mapping[str, Weights], weight_map: Mapping[str, str] | None = None
) -> None:
    """Put shards in the place of model.safetensors, with an index that may say something else."""
    for file, weights in shards.items():
        save_file(weights, folder / file)
    if weight_map is None:
        weight_map = {name: file for file, weights in shards.items() for name in weights}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict(weight_map)}))
    (folder / SINGLE).unlink()


def halves(folder: Path) -> tuple[Weights, Weights]:
    """The tensors of a plain folder in two parts."""
    weights = load_file(folder / SINGLE)
    names = sorted(weights)
    return {n: weights[n] for n in names[::2]}, {n: weights[n] for n in names[1::2]}


def _config(**changes: Any) -> Change:
    return lambda folder: change_json(folder / "config.json", **changes)


def _tokens(**changes: Any) -> Change:
    return lambda folder: change_json(folder / "generation_config.json", **changes)


def _weights(change: Callable[[Weights], object]) -> Change:
    return lambda folder: change_weights(folder, change)


def _both(*changes: Change) -> Change:
    def apply(folder: Path) -> None:
        for change in changes:
            change(folder)

    return apply


def _embedding_as(*names: str, other: Iterable[str] = ()) -> Change:
    """The shared embedding under these names alone; those in `other` have values of their own."""

    def change(weights: Weights) -> None:
        embedding = weights.pop(SHARED)
        for place, name in enumerate(names):
            noise = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(place))
            weights[name] = embedding + 0.3 * noise if name in other else embedding

    return _weights(change)


def _save_again(size: str) -> Change:
    def change(folder: Path) -> None:
        from transformers import AutoModelForSeq2SeqLM

        model = AutoModelForSeq2SeqLM.from_pretrained(folder)
        (folder / SINGLE).unlink()
        model.save_pretrained(folder, max_shard_size=size)

    return change


def _leave_index(folder: Path, *, shards: bool) -> None:
    """What a sharded checkpoint of other weights leaves when a whole one is saved over it."""
    kept = load_file(folder / SINGLE)
    first, second = halves(folder)
    old = {name: tensor + 0.5 for name, tensor in first.items()}
    write_shards(folder, {"model-1.safetensors": old, "model-2.safetensors": second})
    save_file(kept, folder / SINGLE)
    if not shards:
        (folder / "model-1.safetensors").unlink()
        (folder / "model-2.safetensors").unlink()


def _shards_with(
    change: Callable[[Weights, Weights, dict[str, str]], object],
) -> Change:
    """Two shards; `change` gets their tensors and the index's map."""

    def apply(folder: Path) -> None:
        a, b = halves(folder)
        weight_map = dict.fromkeys(a, "a.safetensors") | dict.fromkeys(b, "b.safetensors")
        change(a, b, weight_map)
        write_shards(folder, {"a.safetensors": a, "b.safetensors": b}, weight_map)

    return apply


def _swap(a: Weights, b: Weights, weight_map: dict[str, str]) -> None:
    weight_map |= dict.fromkeys(a, "b.safetensors") | dict.fromkeys(b, "a.safetensors")


def _twice(a: Weights, b: Weights, weight_map: dict[str, str]) -> None:
    for name in [*a][:5]:
        b[name] = a[name] * 0.5


def _forget(a: Weights, b: Weights, weight_map: dict[str, str]) -> None:
    for name in [*weight_map][::3]:
        del weight_map[name]


def _unlisted(folder: Path) -> None:
    a, b = halves(folder)
    write_shards(folder, {"a.safetensors": a, "b.safetensors": b})
    save_file({name: tensor + 1 for name, tensor in a.items()}, folder / "c.safetensors")


def _to(dtype: torch.dtype, *, every: int = 1) -> Change:
    def change(weights: Weights) -> None:
        for name in sorted(weights)[::every]:
            weights[name] = weights[name].to(dtype)

    return _weights(change)


def _prefix(weights: Weights) -> None:
    for name in [*weights]:
        weights[f"transformer.{name}"] = weights.pop(name)


V10: dict[str, Any] = {"style": "v1.0"}
MT5: dict[str, Any] = {"style": "mt5"}
UMT5: dict[str, Any] = {"style": "umt5", "layers": 2}
SHORT = ("d_ff", "d_kv", "d_model", "num_heads", "num_layers", "vocab_size", "model_type",
         "relative_attention_num_buckets")  # fmt: skip


def _short_config(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({name: content[name] for name in SHORT}))


CASES: dict[str, OddCheckpoint] = {
    "v1.0": OddCheckpoint(plain=V10),
    "v1.1": OddCheckpoint(),
    "mt5": OddCheckpoint(plain=MT5),
    "umt5": OddCheckpoint(plain=UMT5),
    "gated SiLU": OddCheckpoint(plain={"fields": {"feed_forward_proj": "gated-silu"}}),
    "GELU": OddCheckpoint(plain={"fields": {"feed_forward_proj": "gelu"}}),
    # Files.
    "saved again": OddCheckpoint(_save_again("1GB")),
    "saved again, tied": OddCheckpoint(_save_again("1GB"), V10),
    "saved again in shards": OddCheckpoint(_save_again("20KB")),
    "saved again in shards, umt5": OddCheckpoint(_save_again("20KB"), UMT5),
    "saved again in shards, mt5": OddCheckpoint(_save_again("20KB"), MT5),
    "a stale index": OddCheckpoint(lambda folder: _leave_index(folder, shards=False)),
    "a stale index and its shards": OddCheckpoint(lambda f: _leave_index(f, shards=True), V10),
    "a .bin beside": OddCheckpoint(lambda f: (f / "pytorch_model.bin").write_bytes(b"no pickle")),
    "an index that swaps its shards": OddCheckpoint(_shards_with(_swap)),
    "an index that forgets tensors": OddCheckpoint(_shards_with(_forget), V10),
    "a tensor in two shards": OddCheckpoint(_shards_with(_twice)),
    "a shard that no index names": OddCheckpoint(_unlisted, MT5),
    # Names of the embedding, tied head.
    "encoder's name": OddCheckpoint(_embedding_as(ENCODER), V10),
    "decoder's name": OddCheckpoint(_embedding_as(DECODER), V10),
    "head's name": OddCheckpoint(_embedding_as(HEAD), V10),
    "both stacks' names": OddCheckpoint(_embedding_as(ENCODER, DECODER), V10),
    "encoder's and head's": OddCheckpoint(_embedding_as(ENCODER, HEAD), V10),
    "all four names": OddCheckpoint(_embedding_as(SHARED, ENCODER, DECODER, HEAD), V10),
    # A head of its own (the plain folder has one), or stacks with embeddings of their own.
    "decoder's name, untied": OddCheckpoint(_embedding_as(DECODER)),
    "both stacks' names, untied": OddCheckpoint(_embedding_as(ENCODER, DECODER), MT5),
    "all names, untied": OddCheckpoint(_embedding_as(SHARED, ENCODER, DECODER)),
    "encoder differs": OddCheckpoint(_embedding_as(SHARED, ENCODER, other=[ENCODER])),
    "decoder differs": OddCheckpoint(_embedding_as(SHARED, DECODER, other=[DECODER]), V10),
    "all differ": OddCheckpoint(
        _embedding_as(SHARED, ENCODER, DECODER, other=[ENCODER, DECODER]), MT5
    ),
    "stacks differ, nothing shared": OddCheckpoint(
        _embedding_as(ENCODER, DECODER, other=[DECODER]), V10
    ),
    "a head that equals the embedding": OddCheckpoint(
        _weights(lambda weights: weights.update({HEAD: weights[SHARED]}))
    ),
    "a tied head by config, another in the file": OddCheckpoint(_config(tie_word_embeddings=True)),
    "an untied head by config, none in the file": OddCheckpoint(
        _config(tie_word_embeddings=False), V10
    ),
    "a narrow copy of the embedding": OddCheckpoint(
        _weights(lambda w: w.update({DECODER: w[SHARED].bfloat16()})), V10
    ),
    # Other tensors.
    "T5's obsolete bias": OddCheckpoint(
        _weights(lambda weights: weights.update({OBSOLETE: torch.ones(8, 4)})), V10
    ),
    "under a prefix": OddCheckpoint(_weights(_prefix)),
    # Types.
    "float16": OddCheckpoint(_to(torch.float16)),
    "bfloat16": OddCheckpoint(_to(torch.bfloat16), MT5),
    "float64": OddCheckpoint(_to(torch.float64), V10),
    "float16 and float32": OddCheckpoint(_both(_config(dtype="float16"), _to(torch.half, every=2))),
    "bfloat16 in shards": OddCheckpoint(_both(_to(torch.bfloat16), _shards_with(_forget))),
    # Sizes and switches.
    "a deeper decoder": OddCheckpoint(plain={"decoder_layers": 3}),
    "a deeper encoder": OddCheckpoint(plain={"layers": 3, "decoder_layers": 1, **V10}),
    "narrow attention": OddCheckpoint(plain={"d_kv": 6, "heads": 3, **MT5}),
    "few fields": OddCheckpoint(_short_config, V10),
    "mT5 with ReLU": OddCheckpoint(_config(model_type="mt5"), V10),
    "as transformers 4 wrote it": OddCheckpoint(
        _config(
            dense_act_fn="gelu_new",
            is_gated_act=True,
            torch_dtype="float32",
            transformers_version="4.28.1",
            output_past=True,
            n_positions=512,
            architectures=["T5WithLMHeadModel"],
        )
    ),
    "a head that is scaled": OddCheckpoint(
        _config(tie_word_embeddings=False, scale_decoder_outputs=True)
    ),
    # Tokens.
    "another start token": OddCheckpoint(_tokens(decoder_start_token_id=7), V10),
    "several end tokens": OddCheckpoint(_tokens(eos_token_id=[1, *range(50, 150)])),
}
