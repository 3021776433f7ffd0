from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from factories import write_random_adapter
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.flatten import flatten, read_lineage
from jumplora_adapters.errors import UnknownTask
from jumplora_adapters.format import read_adapter
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.store import Store

CREATED = "2026-01-01T00:00:00Z"
Q = "encoder.block.0.layer.0.SelfAttention.q"


@pytest.fixture
def store(backbone: Backbone, tmp_path: Path) -> Store:
    """Three tasks, each on top of the earlier ones; the second is low-rank, the third partial."""
    store = Store(tmp_path / "store")
    tasks: dict[str, dict[str, Any]] = {
        "one": {"kind": "masked"},
        "two": {"kind": "lowrank"},
        "three": {
            "targets": tuple(backbone.targets)[:3],
            "prompt": PromptSpec(template="{text}", instruction="third"),
        },
    }
    lineage: tuple[str, ...] = ()
    for seed, (task, options) in enumerate(tasks.items()):
        file = write_random_adapter(
            tmp_path / "files", backbone, task=task, seed=seed, lineage=lineage, **options
        )
        lineage = (*lineage, store.publish(file, backbone).digest)
    return store


def test_sum_in_order_without_lineage(store: Store, backbone: Backbone, tmp_path: Path) -> None:
    converted = flatten(store, "three", backbone, tmp_path / "flat.safetensors", created=CREATED)
    chain = read_lineage(store, "three", backbone)
    assert [link.manifest.task for link in chain] == ["one", "two", "three"]
    flat = read_adapter(converted.path, backbone)
    assert set(flat.deltas) == set(backbone.targets)
    for name, delta in flat.deltas.items():
        expected = torch.zeros(backbone.targets[name])
        for link in chain:
            if name in link.deltas:
                expected += link.deltas[name].to_dense()
        assert torch.equal(delta.to_dense(), expected), name
    manifest = flat.manifest
    assert (manifest.kind, manifest.method, manifest.lineage) == ("masked", "flatten", ())
    assert manifest.task == "three"
    assert manifest.prompt == chain[-1].manifest.prompt
    assert manifest.training["flattened"] == [link.digest for link in chain]


def test_another_task_id_and_an_older_member(
    store: Store, backbone: Backbone, tmp_path: Path
) -> None:
    digest = store.current("two")
    out = tmp_path / "flat.safetensors"
    converted = flatten(
        store,
        f"two@{digest[:8]}",
        backbone,
        out,
        created=CREATED,
        task="both",
        dtype=torch.bfloat16,
    )
    assert converted.manifest.task == "both"
    flat = read_adapter(out, backbone).deltas[Q].to_dense()
    one, two = (link.deltas[Q].to_dense() for link in read_lineage(store, "two", backbone))
    assert torch.equal(flat, (one + two).bfloat16().float())


def test_result_is_publishable_alone(store: Store, backbone: Backbone, tmp_path: Path) -> None:
    converted = flatten(store, "three", backbone, tmp_path / "flat.safetensors", created=CREATED)
    alone = Store(tmp_path / "alone")
    assert alone.publish(converted.path, backbone).digest == converted.digest


def test_unknown_task(store: Store, backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UnknownTask):
        flatten(store, "four", backbone, tmp_path / "flat.safetensors", created=CREATED)
