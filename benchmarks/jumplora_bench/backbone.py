"""A random T5 checkpoint of a given shape, with config and tokenizer, as a folder on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from jumplora_adapters.architecture import read_architecture
from jumplora_adapters.network import parameters
from jumplora_bench.shapes import ShapeName, config_of
from jumplora_bench.tokenizer import make_tokenizer

# A tied head over embeddings of standard deviation 1 only ever repeats the token before, and equal
# tokens of two programs would show nothing. The first norm takes the factor out again.
_EMBEDDING_STD = 0.05


def write_backbone(folder: Path, shape: ShapeName, *, seed: int = 0) -> Path:
    """Write a random float32 checkpoint of that shape; returns the folder.

    Standard deviations as T5 initialises (q by (d_model d_kv)^-0.5, the rest by fan-in), so that
    activations have sizes that occur.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(shape)
    _write_json(folder / "config.json", config)
    tokens = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
    generation = {key: config[f"{key}"] for key in tokens}
    _write_json(folder / "generation_config.json", generation)
    rng = np.random.default_rng(seed)
    known = read_architecture(folder)
    asked = parameters(known)
    shared, *others = asked.tied
    weights: dict[str, Tensor] = {}
    for name, size in asked.shapes.items():
        if name in others:
            continue
        if name.endswith("norm.weight"):
            weights[name] = torch.ones(size)
            continue
        std = _EMBEDDING_STD if name == shared else size[-1] ** -0.5
        if name.endswith(".q.weight"):
            std *= known.d_kv**-0.5
        values = rng.standard_normal(size, dtype=np.float32)
        weights[name] = torch.from_numpy(values).mul_(std)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    make_tokenizer(known.vocab_size).save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **special},
    )
    return folder


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
