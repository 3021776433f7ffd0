"""Backbones: transformers is the oracle for the targets, FORMAT.md's words for the fingerprint."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from factories import Style, tiny_t5
from jumplora_adapters.backbone import read_backbone, resolve_backbone
from jumplora_adapters.errors import BackboneError

STYLES: list[Style] = ["v1.0", "v1.1", "mt5", "umt5"]
Q = "encoder.block.0.layer.0.SelfAttention.q"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[Style, Path]:
    """One tiny checkpoint of each style; more decoder than encoder layers, q and v not square."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        style: tiny_t5(folder / style, style=style, d_kv=6, layers=2, decoder_layers=3)
        for style in STYLES
    }


@pytest.fixture
def checkpoint(checkpoints: dict[Style, Path], tmp_path: Path) -> Path:
    """A copy of the v1.1 checkpoint that a test may change."""
    return Path(shutil.copytree(checkpoints["v1.1"], tmp_path / "checkpoint"))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Rewrite the checkpoint's tensors."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a JSON file, in another layout."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(dict(reversed(content.items())), indent=1))


@pytest.mark.parametrize("style", STYLES)
def test_targets_are_all_q_and_v_of_the_model(checkpoints: dict[Style, Path], style: Style) -> None:
    from transformers import AutoModelForSeq2SeqLM

    backbone = read_backbone(checkpoints[style])
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoints[style])
    linears = {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in ("q", "v")
    }
    assert dict(backbone.targets) == linears
    assert len(linears) == 2 * (2 + 2 * 3)
    assert set(linears.values()) == {(24, 32)}


@pytest.mark.parametrize("style", STYLES)
def test_saving_again_keeps_the_fingerprint(
    checkpoints: dict[Style, Path], style: Style, tmp_path: Path
) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoints[style])
    model.save_pretrained(tmp_path / "again", max_shard_size="20KB")
    AutoTokenizer.from_pretrained(checkpoints[style]).save_pretrained(tmp_path / "again")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 2
    again, once = read_backbone(tmp_path / "again"), read_backbone(checkpoints[style])
    assert again.fingerprint == once.fingerprint
    assert again.architecture == once.architecture


def test_styles_have_fingerprints_of_their_own(checkpoints: dict[Style, Path]) -> None:
    assert len({read_backbone(path).fingerprint for path in checkpoints.values()}) == len(STYLES)


def test_fingerprints_are_the_documented_ones(checkpoints: dict[Style, Path]) -> None:
    folder = checkpoints["v1.1"]

    def canonical(value: object) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    def sha256(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()

    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for key in ("version", "truncation", "padding"):
        del tokenizer[key]
    weights = {
        name: sha256(tensor.float().numpy().astype("<f4").tobytes())
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    targets = {
        name: digest
        for name, digest in weights.items()
        if name.endswith(("Attention.q.weight", "Attention.v.weight"))
    }
    for stack in ("encoder", "decoder"):
        weights[f"{stack}.embed_tokens.weight"] = weights["shared.weight"]
    common = {
        "architecture": {
            "model_type": "t5",
            "d_model": 32,
            "d_kv": 6,
            "d_ff": 48,
            "num_heads": 4,
            "num_layers": 2,
            "num_decoder_layers": 3,
            "vocab_size": 512,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 32,
            "layer_norm_epsilon": 1e-06,
            "feed_forward_proj": "gated-gelu",
            "scales_decoder_outputs": False,
        },
        "tokenizer": sha256(canonical(tokenizer)),
    }
    second = {
        "fingerprint_version": 2,
        "weights": weights,
        "special_tokens": ["</s>", "<pad>", "<unk>"],
        "end_token": "</s>",
        "cleans_spaces": False,
        "start_token_id": 0,
        "end_token_ids": [1],
    }
    first = {"fingerprint_version": 1, "weights": targets}
    backbone = read_backbone(folder)
    assert backbone.fingerprints == (
        sha256(canonical(common | second)),
        sha256(canonical(common | first)),
    )
    assert backbone.fingerprint == backbone.fingerprints[0]
    assert all(backbone.knows(fingerprint) for fingerprint in backbone.fingerprints)
    assert not backbone.knows("ab" * 32)


def _retype(weights: dict[str, torch.Tensor]) -> None:
    weights.update({name: tensor.double() for name, tensor in weights.items()})


def _nudge(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[name].view(-1)[0] += 1.0

    return change


@pytest.mark.parametrize(
    ("change", "same"),
    [
        pytest.param(lambda folder: change_weights(folder, _nudge(f"{Q}.weight")), False,
                     id="a target weight"),
        pytest.param(lambda folder: change_weights(folder, _nudge("lm_head.weight")), "first",
                     id="another weight"),
        pytest.param(
            lambda folder: change_json(
                folder / "tokenizer_config.json",
                lambda content: content.update(eos_token="<pad>")),
            "first", id="another end token"),
        pytest.param(
            lambda folder: change_json(
                folder / "tokenizer_config.json",
                lambda content: content.update(extra_special_tokens=["▁the"])),
            "first", id="another control token"),
        pytest.param(
            lambda folder: change_json(
                folder / "tokenizer_config.json",
                lambda content: content.update(extra_special_tokens=["<absent>", "</s>"])),
            True, id="control tokens that are absent, or are some already"),
        pytest.param(
            lambda folder: change_json(
                folder / "tokenizer_config.json",
                lambda content: content.update(clean_up_tokenization_spaces=True)),
            "first", id="spaces are cleaned up"),
        pytest.param(
            lambda folder: change_json(
                folder / "tokenizer_config.json",
                lambda content: content.update(model_max_length=7)),
            True, id="a length that nothing reads"),
        pytest.param(lambda folder: change_weights(folder, _retype), True, id="a wider type"),
        pytest.param(
            lambda folder: change_json(
                folder / "tokenizer.json", lambda content: content.update(version="2.0")),
            True, id="the tokenizer file's version and layout"),
        pytest.param(
            lambda folder: change_json(
                folder / "tokenizer.json",
                lambda content: content["model"]["vocab"][300].__setitem__(1, -9.5)),
            False, id="a token's score"),
        pytest.param(
            lambda folder: change_json(
                folder / "config.json", lambda content: content.update(dropout_rate=0.5)),
            True, id="a training setting"),
        pytest.param(
            lambda folder: change_json(
                folder / "config.json", lambda content: content.update(layer_norm_epsilon=1e-5)),
            False, id="epsilon"),
        pytest.param(
            lambda folder: change_json(
                folder / "config.json", lambda content: content.update(
                    tie_word_embeddings=True, scale_decoder_outputs=False)),
            True, id="transformers 5's way to say it"),
        pytest.param(
            lambda folder: change_json(
                folder / "config.json", lambda content: content.update(tie_word_embeddings=True)),
            False, id="scaled decoder outputs"),
    ],
)  # fmt: skip
def test_what_the_fingerprint_depends_on(
    checkpoint: Path, change: Callable[[Path], object], same: bool | Literal["first"]
) -> None:
    before = read_backbone(checkpoint).fingerprints
    change(checkpoint)
    after = read_backbone(checkpoint).fingerprints
    expected = {True: [True, True], False: [False, False], "first": [False, True]}[same]
    assert [now == then for now, then in zip(after, before, strict=True)] == expected


def test_an_unchanged_folder_is_read_once(checkpoint: Path) -> None:
    first = read_backbone(checkpoint)
    assert read_backbone(checkpoint) is first
    change_weights(checkpoint, _nudge(f"{Q}.weight"))
    assert read_backbone(checkpoint).fingerprint != first.fingerprint


def test_a_sentencepiece_model_will_do(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "spiece.model").write_bytes(b"pieces")
    first = read_backbone(checkpoint).fingerprints
    (checkpoint / "spiece.model").write_bytes(b"others")
    assert set(read_backbone(checkpoint).fingerprints).isdisjoint(first)


def test_how_a_manifest_names_it(checkpoint: Path) -> None:
    backbone = read_backbone(checkpoint)
    reference = backbone.ref()
    assert (reference.name, reference.fingerprint) == ("checkpoint", backbone.fingerprint)
    assert reference.architecture["d_model"] == 32


def _weight_map(folder: Path, file: object) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    index = {"weight_map": {f"{Q}.weight": file}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _config(**fields: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        change_json(folder / "config.json", lambda content: content.update(fields))

    return change


def _drop(name: str) -> Callable[[Path], object]:
    return lambda folder: change_weights(folder, lambda weights: weights.pop(name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda folder: (folder / "config.json").unlink(), "no config.json",
                     id="no config"),
        pytest.param(lambda folder: (folder / "config.json").write_text("{"), "as JSON",
                     id="broken config"),
        pytest.param(lambda folder: (folder / "config.json").write_text("[]"), "no JSON object",
                     id="config a list"),
        pytest.param(_config(auto_map={"AutoModel": "code.py"}), "auto_map", id="own code"),
        pytest.param(_config(feed_forward_proj="gated-mish"), "gated-mish", id="not served"),
        pytest.param(_config(dense_act_fn="relu"), "dense_act_fn is 'relu'", id="contradiction"),
        pytest.param(_config(model_type="longt5"), "'longt5' .*t5, mt5", id="longt5"),
        pytest.param(_config(model_type="bert"), "'bert'", id="bert"),
        pytest.param(_config(d_model=None), "d_model is None", id="no size"),
        pytest.param(_config(num_heads=-4), "num_heads is -4", id="negative size"),
        pytest.param(_config(num_layers=257), "1 to 256", id="too many layers"),
        pytest.param(_config(num_layers=True), "num_layers is True", id="size true"),
        pytest.param(_config(num_layers=3), "lacks 9 tensors", id="layers missing"),
        pytest.param(_config(d_kv=7), r"F32 \[24, 32\].*\[28, 32\]", id="other shape"),
        pytest.param(_config(layer_norm_epsilon="x"), "layer_norm_epsilon", id="epsilon a text"),
        pytest.param(_drop(f"{Q}.weight"), f"first {Q}.weight", id="tensor missing"),
        pytest.param(
            lambda folder: change_weights(
                folder, lambda weights: weights.update({f"{Q}.weight": torch.ones(24, 32).int()})),
            "I32", id="whole numbers"),
        pytest.param(
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "jumplora import-backbone", id="only .bin"),
        pytest.param(lambda folder: (folder / "model.safetensors").unlink(), "neither",
                     id="no weights"),
        pytest.param(lambda folder: (folder / "model.safetensors").write_bytes(b"\4" * 64),
                     "not a safetensors file", id="broken weights"),
        pytest.param(lambda folder: _weight_map(folder, "../other.safetensors"), "only",
                     id="index out of the folder"),
        pytest.param(lambda folder: _weight_map(folder, "weights.bin"), "only", id="index to .bin"),
        pytest.param(lambda folder: _weight_map(folder, 3), "only", id="index to a number"),
        pytest.param(lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer",
                     id="no tokenizer"),
    ],
)  # fmt: skip
def test_bad_folders_are_refused(
    checkpoint: Path, change: Callable[[Path], object], message: str
) -> None:
    change(checkpoint)
    with pytest.raises(BackboneError, match=message):
        read_backbone(checkpoint)


def test_a_folder_is_its_own_resolution(checkpoint: Path) -> None:
    assert resolve_backbone(str(checkpoint)) == checkpoint


@pytest.mark.parametrize("name", ["/no/such/folder", "../up", "", "a/b/c", "https://x/y", "a b"])
def test_what_is_neither_folder_nor_hub_id_is_not_fetched(name: str) -> None:
    with pytest.raises(BackboneError, match="neither"):
        resolve_backbone(name, fetch=lambda hub_id, revision: pytest.fail("fetched"))


def test_a_hub_id_is_fetched_and_named(checkpoint: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--google--flan-t5-small" / "snapshots" / ("0" * 40)

    def fetch(hub_id: str, revision: str | None) -> str:
        assert (hub_id, revision) == ("google/flan-t5-small", "v1")
        return str(shutil.copytree(checkpoint, snapshot))

    folder = resolve_backbone("google/flan-t5-small", revision="v1", fetch=fetch)
    assert folder == snapshot
    assert read_backbone(folder).name == "google/flan-t5-small"


def test_a_hub_that_does_not_answer_is_told() -> None:
    def fetch(hub_id: str, revision: str | None) -> str:
        raise ConnectionError("no route\nand what the hub's client advises")

    with pytest.raises(BackboneError, match=r"no route; --backbone"):
        resolve_backbone("google/flan-t5-small", fetch=fetch)
