"""Which file holds which parameter; odd folders that load are in server/engine/test_checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jumplora_adapters.architecture import read_architecture
from jumplora_adapters.checkpoint import Checkpoint, open_checkpoint, weight_files
from jumplora_adapters.errors import BackboneError
from jumplora_adapters.network import parameters
from odd_checkpoints import (
    DECODER,
    ENCODER,
    HEAD,
    INDEX,
    SHARED,
    SINGLE,
    V10,
    Change,
    OddCheckpoint,
    Q,
    change_weights,
    halves,
    write_shards,
)


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(folder, parameters(read_architecture(folder)))


def test_tied_parameters_have_one_place(tmp_path: Path) -> None:
    checkpoint = opened(OddCheckpoint(plain=V10).write(tmp_path))
    places = checkpoint.places
    assert places[SHARED] == places[ENCODER] == places[DECODER] == places[HEAD]
    assert places[SHARED].shape == (512, 32)
    assert (places[Q].file, places[Q].name, places[Q].dtype) == (tmp_path / SINGLE, Q, "F32")


def test_equal_copies_are_one_place_and_others_are_not(tmp_path: Path) -> None:
    folder = OddCheckpoint(plain=V10).write(tmp_path)

    def copies(weights: dict[str, torch.Tensor]) -> None:
        weights[ENCODER] = weights[SHARED].clone()
        weights[DECODER] = weights[SHARED].clone()
        weights[DECODER][511, 31] += 1e-3  # in the last row

    change_weights(folder, copies)
    places = opened(folder).places
    assert places[ENCODER] == places[HEAD] == places[SHARED] != places[DECODER]


def test_tensors_come_one_by_one_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    folder = OddCheckpoint().write(tmp_path)
    whole = load_file(folder / SINGLE)
    first, second = halves(folder)
    write_shards(folder, {"a.safetensors": first, "b.safetensors": second})
    checkpoint = opened(folder)
    names = sorted(whole, reverse=True)
    for name, (found, tensor) in zip(names, checkpoint.tensors(names), strict=True):
        assert found == name
        assert torch.equal(tensor, whole[name])
    assert {name for name, _ in checkpoint.tensors()} == checkpoint.places.keys()
    assert {place.file.name for place in checkpoint.places.values()} == {
        "a.safetensors",
        "b.safetensors",
    }


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    folder = OddCheckpoint().write(tmp_path)
    checkpoint = opened(folder)
    (folder / SINGLE).unlink()
    with pytest.raises(BackboneError, match=r"model\.safetensors cannot be read"):
        next(checkpoint.tensors())


def test_the_files_that_are_read(tmp_path: Path) -> None:
    folder = OddCheckpoint().write(tmp_path)
    assert weight_files(folder) == (folder / SINGLE,)
    first, second = halves(folder)
    write_shards(folder, {"b.safetensors": first, "a.safetensors": second})
    assert weight_files(folder) == (folder / "a.safetensors", folder / "b.safetensors")


def _two_names(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({f"transformer.{Q}": weights[Q]}))


def _no_embedding(weights: dict[str, torch.Tensor]) -> None:
    del weights[SHARED], weights[HEAD]


def _lost_shard(folder: Path) -> None:
    first, second = halves(folder)
    write_shards(folder, {"a.safetensors": first, "b.safetensors": second})
    (folder / "b.safetensors").unlink()


def _index_without_map(folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {}}))


def _tensor(name: str, tensor: torch.Tensor) -> Change:
    return lambda folder: change_weights(folder, lambda weights: weights.update({name: tensor}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda folder: change_weights(folder, lambda weights: weights.pop(Q)),
            f"lacks 1 tensors, first {Q}",
            id="missing",
        ),
        pytest.param(
            lambda folder: change_weights(folder, _no_embedding),
            f"lacks 1 tensors, first {SHARED}",
            id="no embedding under any name",
        ),
        pytest.param(
            _tensor("classifier.weight", torch.ones(2)),
            r"holds classifier\.weight, which does not belong",
            id="foreign",
        ),
        pytest.param(
            _tensor("encoder.block.1.layer.0.layer_norm.weight", torch.ones(32)),
            r"holds encoder\.block\.1",
            id="more blocks than the config says",
        ),
        pytest.param(_two_names, f"hold {Q} under two names", id="two names"),
        pytest.param(
            _tensor(SHARED, torch.ones(2, 2)),
            r"shared\.weight of .* is F32 \[2, 2\]; .*\[512, 32\]",
            id="misshapen",
        ),
        pytest.param(
            _tensor(DECODER, torch.ones(500, 32)), r"decoder\.embed_tokens", id="misshapen alias"
        ),
        pytest.param(_tensor(Q, torch.ones(32, 32).int()), "is I32", id="whole numbers"),
        pytest.param(
            _tensor(Q, torch.ones(32, 32).to(torch.float8_e4m3fn)), "is F8_E4M3", id="8 bits"
        ),
        pytest.param(_lost_shard, r"names b\.safetensors, which is not there", id="lost shard"),
        pytest.param(_index_without_map, "no weight_map", id="index without a map"),
        pytest.param(
            lambda folder: (folder / SINGLE).rename(folder / "pytorch_model.bin"),
            "import-backbone",
            id=".bin",
        ),
        pytest.param(lambda folder: (folder / SINGLE).unlink(), "neither model", id="no weights"),
        pytest.param(
            lambda folder: (folder / SINGLE).write_bytes(b"no tensors"),
            "is not a safetensors file",
            id="garbage",
        ),
        pytest.param(
            lambda folder: (folder / "adapter_config.json").write_text("{}"),
            "LoRA, which transformers adds",
            id="a LoRA beside",
        ),
        pytest.param(
            lambda folder: save_file(
                {Q: torch.ones(2)}, folder / "shard-00000-model-00001-of-00001.safetensors"
            ),
            "distributed checkpoint",
            id="distributed",
        ),
    ],
)
def test_what_is_not_the_network_is_refused(tmp_path: Path, change: Change, message: str) -> None:
    folder = OddCheckpoint(change).write(tmp_path)
    with pytest.raises(BackboneError, match=message):
        opened(folder)
