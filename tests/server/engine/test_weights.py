"""Checkpoints are read strictly: what is missing, foreign or misshapen is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from factories import tiny_t5
from jumplora_server.engine.weights import CheckpointError, read_config, read_weights


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_map": {"AutoModel": "evil.py"}}, "remote code"),
        ({"model_type": "llama"}, "t5 and mt5"),
        ({"feed_forward_proj": "gated-silu"}, "gated-gelu"),
        ({"d_model": None}, "lacks 'd_model'"),
        ({"d_model": 65_536}, "d_model 65536; at most 65535"),
        ({"d_ff": 65_537}, "d_ff 65537; at most 65536"),
        ({"num_heads": 1024, "d_kv": 128}, r"num_heads \* d_kv 131072; at most 65536"),
        ({"d_model": 32.0}, r"d_model 32\.0; a whole number"),
        ({"num_layers": True}, "num_layers True; a whole number"),
        ({"d_kv": 0}, "d_kv 0; a whole number from 1"),
        ({"d_ff": "48"}, "d_ff '48'; a whole number"),
    ],
)
def test_a_config_that_cannot_be_served_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = tiny_t5(tmp_path)
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        read_config(folder)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("encoder.block.0.layer.0.SelfAttention.q.weight"), "lacks 1 parameters"),
        (lambda w: w.update(extra=torch.zeros(1)), "extra"),
        (lambda w: w.update({"shared.weight": torch.zeros(2, 2)}), "shape"),
    ],
    ids=["missing", "foreign", "misshapen"],
)
def test_wrong_weights_are_named(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    folder = tiny_t5(tmp_path)
    edit_weights(folder, change)
    with pytest.raises(CheckpointError, match=message):
        read_weights(folder, read_config(folder))


def test_bin_only_folders_point_to_the_import_command(tmp_path: Path) -> None:
    folder = tiny_t5(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="import-backbone"):
        read_weights(folder, read_config(folder))


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    folder = tiny_t5(tmp_path)
    whole = load_file(folder / "model.safetensors")
    names = sorted(whole)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, members in shards.items():
        save_file({name: whole[name] for name in members}, folder / shard)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: shard for shard, members in shards.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    read = read_weights(folder, read_config(folder))
    assert all(torch.equal(read[name], whole[name]) for name in names)


@pytest.mark.parametrize(
    ("changes", "scales"),
    [
        ({"model_type": "t5", "tie_word_embeddings": True}, True),
        ({"model_type": "t5", "tie_word_embeddings": None}, True),
        ({"model_type": "t5", "tie_word_embeddings": False}, False),
        (
            {"model_type": "t5", "tie_word_embeddings": True, "scale_decoder_outputs": False},
            False,
        ),
        ({"model_type": "mt5", "tie_word_embeddings": True}, False),
    ],
)
def test_who_scales_the_logits(tmp_path: Path, changes: dict[str, Any], scales: bool) -> None:
    folder = tiny_t5(tmp_path)
    edit_config(folder, scale_decoder_outputs=None)
    edit_config(folder, **changes)
    config = read_config(folder)
    assert config.logit_scale == (config.d_model**-0.5 if scales else 1.0)
