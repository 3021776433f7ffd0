"""A checkpoint's round trip, and refusing one that is not ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from jumplora_adapters.errors import DataError
from jumplora_adapters.training.checkpoint import (
    Checkpoint,
    Progress,
    optimizer_tensors,
    read_checkpoint,
    restore_optimizer,
    write_checkpoint,
)

IDENTITY = json.dumps({"rank": 8, "seed": 0})


def _checkpoint() -> Checkpoint:
    progress = Progress(
        step=7,
        best_step=4,
        best_scores={"exact_match": 0.1 + 0.2},
        initial_thresholds={"global": 0.1},
        densities=[(3, 0.0625)],
        evaluations=[(4, 0.3)],
    )
    tensors = {"layer.A": torch.randn(2, 3)}
    return Checkpoint(IDENTITY, progress, tensors, {}, {}, {"cpu": torch.get_rng_state()})


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    written = _checkpoint()
    write_checkpoint(path, written)
    read = read_checkpoint(path, IDENTITY)
    assert read is not None
    assert read.progress == written.progress
    assert torch.equal(read.parameters["layer.A"], written.parameters["layer.A"])
    assert torch.equal(read.random["cpu"], written.random["cpu"])
    assert read.best == {}
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_there_may_be_none(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "absent.safetensors", IDENTITY) is None


def test_another_training_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, _checkpoint())
    with pytest.raises(DataError, match=r"\(rank: 8, now 4\)"):
        read_checkpoint(path, json.dumps({"rank": 4, "seed": 0}))


@pytest.mark.parametrize(
    "note",
    [
        {"identity": IDENTITY},
        {"progress": {}, "identity": IDENTITY},
        {"progress": {"densities": [], "evaluations": [], "lost": 1}, "identity": IDENTITY},
        {"progress": []},
        [],
    ],
)
def test_another_layout_is_told(tmp_path: Path, note: object) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"jumplora_training": json.dumps(note)})
    with pytest.raises(DataError, match="another version of this program"):
        read_checkpoint(path, IDENTITY)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b'{"a": 1}' * 20])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a training checkpoint"):
        read_checkpoint(path, IDENTITY)


def test_an_optimizer_goes_on_as_if_nothing_had_happened() -> None:
    def descend(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        (parameter**2).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    first = torch.nn.Parameter(torch.ones(3))
    unused = torch.nn.Parameter(torch.ones(1))  # as a threshold before the gate is set
    optimizer = torch.optim.AdamW([unused, first], lr=0.1)
    descend(first, optimizer)
    second = torch.nn.Parameter(first.detach().clone())
    resumed = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1)), second], lr=0.1)
    restore_optimizer(resumed, optimizer_tensors(optimizer))
    for _ in range(3):
        descend(first, optimizer)
        descend(second, resumed)
    assert torch.equal(first, second)
