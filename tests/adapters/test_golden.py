"""Files that older versions wrote (tests/golden) can be read and worked with for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.delta import LowRankDelta, SparseDelta
from jumplora_adapters.format import read_adapter
from jumplora_adapters.store import Store

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"


@pytest.fixture(scope="module")
def answers() -> Any:
    """answers.json."""
    return json.loads((GOLDEN / "answers.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """The golden backbone."""
    return read_backbone(GOLDEN / "backbone")


def test_the_store_lists_what_it_listed(answers: Any) -> None:
    store = Store(GOLDEN / "store")
    assert store.tasks() == sorted(answers["versions"])
    for task, versions in answers["versions"].items():
        assert sorted(store.versions(task)) == sorted(versions)
        assert store.current(task) == versions[-1]
        assert [entry.digest for entry in store.history(task)] == versions
    assert store.manifest(store.current("descendant")).lineage == (
        answers["versions"]["factors"][0],
        answers["versions"]["plain"][-1],
    )


@pytest.mark.parametrize("task", ["descendant", "factors", "lowrank", "plain"])
def test_every_adapter_is_read(answers: Any, backbone: Backbone, task: str) -> None:
    store = Store(GOLDEN / "store")
    for version in answers["versions"][task]:
        adapter = read_adapter(store.path_of(version), backbone, expect_digest=version)
        assert (adapter.manifest.task, adapter.manifest.format_version) == (task, 1)
        assert adapter.manifest.backbone.fingerprint == answers["fingerprint"]
        assert set(adapter.deltas) == set(backbone.targets)
        kind = LowRankDelta if task == "lowrank" else SparseDelta
        assert all(isinstance(delta, kind) for delta in adapter.deltas.values())
        assert set(adapter.factors) == (set(backbone.targets) if task == "factors" else set())


def test_the_factors_are_those_of_the_masks(answers: Any, backbone: Backbone) -> None:
    (version,) = answers["versions"]["factors"]
    adapter = read_adapter(Store(GOLDEN / "store").path_of(version), backbone)
    for name, (a, b) in adapter.factors.items():
        again = SparseDelta.from_factors(a, b, tau=1.5, scale=0.5, dtype=torch.bfloat16)
        assert torch.equal(again.to_dense(), adapter.deltas[name].to_dense())
