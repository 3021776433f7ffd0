"""Ancestors: looked up, checked to be one chain, merged and recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from factories import write_random_adapter
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.errors import DataError, UnknownTask
from jumplora_adapters.format import read_adapter
from jumplora_adapters.store import Store
from jumplora_adapters.training.config import TrainConfig
from jumplora_adapters.training.lineage import read_ancestors
from jumplora_adapters.training.train import train


@pytest.fixture
def backbone(backbone_folder: Path) -> Backbone:
    return read_backbone(backbone_folder)


@pytest.fixture
def chain(tmp_path: Path, backbone: Backbone) -> tuple[Store, list[str]]:
    """Tasks a <- b <- c, each trained (so to speak) on the ones before, and d on nothing."""
    store = Store(tmp_path / "store")
    digests: list[str] = []
    for task in "abc":
        path = write_random_adapter(tmp_path, backbone, task=task, lineage=digests)
        digests.append(store.publish(path, backbone).digest)
    store.publish(write_random_adapter(tmp_path, backbone, task="d", seed=9), backbone)
    return store, digests


@pytest.mark.parametrize("specs", [["c"], ["a", "c"], ["a", "b", "c"]])
def test_own_ancestors_need_not_be_named(
    chain: tuple[Store, list[str]], backbone: Backbone, specs: list[str]
) -> None:
    store, digests = chain
    found = read_ancestors(specs, store.root, backbone)
    assert [adapter.digest for adapter in found] == digests


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["b", "a"], "a is in the chain already"),
        (["a", "d"], "d was trained on another chain .* the bare backbone against"),
        (["d", "b"], "b was trained on another chain"),
    ],
)
def test_what_is_no_chain_is_refused(
    chain: tuple[Store, list[str]], backbone: Backbone, specs: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_ancestors(specs, chain[0].root, backbone)


def test_an_unknown_ancestor_is_refused(chain: tuple[Store, list[str]], backbone: Backbone) -> None:
    with pytest.raises(UnknownTask):
        read_ancestors(["nobody"], chain[0].root, backbone)
    with pytest.raises(DataError, match="store"):
        read_ancestors(["a"], None, backbone)


def test_a_trained_adapter_names_its_chain(
    chain: tuple[Store, list[str]], backbone: Backbone, config: TrainConfig
) -> None:
    store, digests = chain
    chained = replace(config, ancestors=("b",), store=store.root)
    bare = train(config).digest
    assert train(chained).digest != bare
    assert read_adapter(config.out, backbone).manifest.lineage == tuple(digests[:2])
    store.publish(config.out, backbone)  # which checks that the ancestors are there
