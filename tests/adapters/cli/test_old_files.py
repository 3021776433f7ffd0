"""The commands on files of format version 1 (tests/golden)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.format import read_adapter
from jumplora_adapters.store import Store

Run = Callable[..., Result]
RunJson = Callable[..., Any]
GOLDEN = Path(__file__).parents[2] / "golden" / "v1"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return read_backbone(GOLDEN / "backbone")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A copy of the golden store."""
    shutil.copytree(GOLDEN / "store", tmp_path / "store")
    return Store(tmp_path / "store")


def test_they_are_verified(run_json: RunJson, store: Store, backbone: Backbone) -> None:
    checked = run_json("verify", "--store", store.root, "--backbone", backbone.path)
    assert checked["ok"] is True
    assert len(checked["adapters"]) == 5


def test_they_are_inspected(run: Run, run_json: RunJson, store: Store) -> None:
    manifest = run_json("inspect", "descendant", "--store", store.root)["manifest"]
    assert (manifest["format_version"], manifest["profile"]) == (1, None)
    assert "version 1" in run("inspect", "descendant", "--store", store.root).stdout


def test_canaries_make_a_file_of_version_2(
    run: Run, store: Store, backbone: Backbone, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"input": "the film", "target": "good"}\n')
    run(
        "canary", "factors", "--store", store.root, "--backbone", backbone.path,
        "--rows", tmp_path / "rows.jsonl", "--out", tmp_path / "new.safetensors",
    )  # fmt: skip
    new = read_adapter(tmp_path / "new.safetensors", backbone)
    old = read_adapter(store.path_of(store.current("factors")), backbone)
    assert (old.manifest.format_version, new.manifest.format_version) == (1, 2)
    assert new.manifest.backbone.fingerprint == backbone.fingerprint
    assert {n: d.digest() for n, d in new.deltas.items()} == {
        n: d.digest() for n, d in old.deltas.items()
    }
    assert new.factors.keys() == old.factors.keys()
