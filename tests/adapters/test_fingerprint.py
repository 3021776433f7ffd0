"""Fingerprints that adapters in the world name: they were computed once and must never change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from jumplora_adapters.backbone import read_backbone

DEMO = Path(__file__).parents[2] / "adapters/demo/backbone"
SIZES: dict[str, Any] = {
    "vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 2, "num_layers": 2,
}  # fmt: skip
# As the checkpoints of three generations say it: few fields, transformers 4, transformers 5.
CONFIGS: dict[str, dict[str, Any]] = {
    "v1.0": {"model_type": "t5"},
    "v1.1": {
        "model_type": "t5",
        "num_decoder_layers": 1,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu_new",
        "is_gated_act": True,
        "tie_word_embeddings": False,
        "layer_norm_epsilon": 1e-5,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 64,
        "torch_dtype": "float16",
    },
    "mt5": {
        "model_type": "mt5",
        "num_decoder_layers": 3,
        "tie_word_embeddings": True,
        "scale_decoder_outputs": False,
        "dtype": "float32",
    },
}
DTYPES = {"v1.0": torch.float32, "v1.1": torch.float16, "mt5": torch.bfloat16}
FINGERPRINTS = {
    "v1.0": "c3e94400fb0e5cc58d593276918bdb1cb9844dfecba0a8c5e42da3fadfd01495",
    "v1.1": "4300afbef9405b30c17d95e3a3931850aeb486c1b60a0afa52468906d8a98db1",
    "mt5": "582368ab514df731f42dcecc16c4fea9ef15194a88624fdef5f42af0f40a2e1e",
}


def write_folder(folder: Path, style: str, *, shards: int) -> Path:
    """A checkpoint of numbers that no random generator chose."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    folder.mkdir()
    content = {**SIZES, **CONFIGS[style], "eos_token_id": 1, "decoder_start_token_id": 0}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"vocab": []}}))
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(folder))
    state = model.state_dict()
    names = sorted(name for name in state if "embed_tokens" not in name)
    weights = {}
    for place, name in enumerate(names):
        values = (torch.arange(state[name].numel()) * (3 + place) % 17 - 8) / 16
        weights[name] = values.view(state[name].shape).to(DTYPES[style])
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
        return folder
    files = {name: f"model-{i % shards}.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(files.values())):
        save_file({name: weights[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


def test_the_demo_keeps_its_fingerprint() -> None:
    assert read_backbone(DEMO).fingerprint == (
        "461ba391d7db9880f599a9f645a4249e8ae7fddaabf98302adb227cfc4b7635b"
    )


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("style", CONFIGS)
def test_a_folder_keeps_its_fingerprint(tmp_path: Path, style: str, shards: int) -> None:
    folder = write_folder(tmp_path / "backbone", style, shards=shards)
    assert read_backbone(folder).fingerprint == FINGERPRINTS[style]
