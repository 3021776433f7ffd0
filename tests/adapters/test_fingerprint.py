"""Fingerprints that adapters in the world name: they were computed once and must never change."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram

from factories import Style, tiny_t5
from jumplora_adapters import fingerprint
from jumplora_adapters.architecture import Architecture
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.control_tokens import special_tokens
from jumplora_adapters.decoding import cleans_spaces
from jumplora_adapters.fingerprint import ARCHITECTURE_FIELDS
from jumplora_adapters.tokenizer import end_token, read_tokenizer
from jumplora_adapters.tokenizer_files import tokenizer_identity

DEMO = Path(__file__).parents[2] / "adapters/demo/backbone"
SIZES: dict[str, Any] = {
    "vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 2, "num_layers": 2,
}  # fmt: skip
# As checkpoints say it: with few fields, of transformers 4, of transformers 5, and of umT5.
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
    "umt5": {"model_type": "umt5", "feed_forward_proj": "gated-silu"},
}
DTYPES = {
    "v1.0": torch.float32,
    "v1.1": torch.float16,
    "mt5": torch.bfloat16,
    "umt5": torch.float32,
}
FIRST = {  # of version 1
    "v1.0": "c3e94400fb0e5cc58d593276918bdb1cb9844dfecba0a8c5e42da3fadfd01495",
    "v1.1": "4300afbef9405b30c17d95e3a3931850aeb486c1b60a0afa52468906d8a98db1",
    "mt5": "582368ab514df731f42dcecc16c4fea9ef15194a88624fdef5f42af0f40a2e1e",
    "umt5": "7711e0bf5d15788b4fe00821f0687fd48b1a345561d6dfe9a8f269c76f460be3",
}
SECOND = {
    "v1.0": "0415787861d27b5772089c3b3ddd3ac7139f84fa4344d1dae39d1795bfca1585",
    "v1.1": "5344f4fedd3c6e88171eee135cfbc89e02b43f6b86a2fa7a5b682ab765e5f3f4",
    "mt5": "583144ee9c594b9840a79ec85055b39652b168e17bd2205928f835832d289959",
    "umt5": "8b41375af1dc3e9ca8ab6578b822d090e5d52540ab66bdf94484916d5c146ca7",
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


def test_the_demo_keeps_its_fingerprints() -> None:
    assert read_backbone(DEMO).fingerprints == (
        "dc67e6a5b6eb2a05c7085f1be732da1a315f3d5865c39033e28e6a92283e2df3",
        "461ba391d7db9880f599a9f645a4249e8ae7fddaabf98302adb227cfc4b7635b",
    )


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("style", CONFIGS)
def test_a_folder_keeps_its_fingerprints(tmp_path: Path, style: str, shards: int) -> None:
    folder = write_folder(tmp_path / "backbone", style, shards=shards)
    assert read_backbone(folder).fingerprints == (SECOND[style], FIRST[style])


def test_the_architecture_has_no_field_that_is_left_out() -> None:
    """One that is added later is in no fingerprint: then a new version of it is needed."""
    assert {field.name for field in fields(Architecture)} == set(ARCHITECTURE_FIELDS)


@pytest.mark.parametrize("style", get_args(Style))
@pytest.mark.parametrize("threads", [1, 3])
def test_digests_of_parts_are_those_of_whole_tensors(
    tmp_path: Path, style: Style, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part is one row, three rows or the whole tensor."""
    backbone = read_backbone(tiny_t5(tmp_path, style=style, dtype=torch.bfloat16))
    whole = {
        name: hashlib.sha256(tensor.float().numpy().astype("<f4").tobytes()).hexdigest()
        for name, tensor in backbone.checkpoint.tensors()
    }
    for part_bytes in (1, 3 * 4 * 32, 1 << 30):
        monkeypatch.setattr(fingerprint, "_PART_BYTES", part_bytes)
        assert fingerprint.weight_digests(backbone.checkpoint, threads=threads) == whole


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize(
    "named",
    [
        {},
        {"extra_special_tokens": ["a", "no"], "eos_token": "b"},
        {"extra_special_tokens": {"first": "a", "second": {"content": "ab"}}},
    ],
)
@pytest.mark.parametrize("cleans", [None, True])
def test_the_tokenizers_library_reads_the_same(
    tmp_path: Path, kind: str, named: dict[str, Any], cleans: bool | None
) -> None:
    """What counts of a tokenizer is read as JSON; the library is the oracle."""
    pieces = ["<unk>", "</s>", "a", "b", "ab"]
    raw = Tokenizer(
        Unigram([(piece, -1.0) for piece in pieces], unk_id=0)
        if kind == "unigram"
        else BPE({piece: n for n, piece in enumerate(pieces)}, [("a", "b")], unk_token="<unk>")
    )
    raw.add_special_tokens(["</s>", "<new>"])
    raw.add_tokens(["plain"])
    raw.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(named))
    config = {"clean_up_tokenization_spaces": cleans}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    found = tokenizer_identity(tmp_path)
    loaded = read_tokenizer(tmp_path)
    assert list(found.special) == sorted(special_tokens(loaded).values())
    assert found.end == loaded.id_to_token(end_token(tmp_path, loaded))
    assert found.cleans_spaces == cleans_spaces(tmp_path, loaded)
