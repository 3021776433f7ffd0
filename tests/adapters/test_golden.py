"""Files that older versions wrote (tests/golden) can be read and worked with for ever."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from factories import random_adapter
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.convert.flatten import flatten, read_lineage
from jumplora_adapters.delta import LowRankDelta, SparseDelta
from jumplora_adapters.errors import MissingAncestor
from jumplora_adapters.format import read_adapter, write_adapter
from jumplora_adapters.manifest import Kind, Manifest
from jumplora_adapters.store import Store
from jumplora_adapters.training.lineage import read_ancestors

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
BEFORE = "10abacf"  # the last commit that writes version 1


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


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A copy of the golden store."""
    shutil.copytree(GOLDEN / "store", tmp_path / "store")
    return Store(tmp_path / "store")


def _descendant(backbone: Backbone, store: Store, **options: Any) -> tuple[Manifest, Any]:
    """An adapter of version 2 on two of version 1."""
    lineage = (store.current("factors"), store.current("lowrank"))
    return random_adapter(backbone, task="new", lineage=lineage, **options)


def test_the_backbone_knows_both_fingerprints(answers: Any, backbone: Backbone) -> None:
    assert backbone.fingerprints[1] == answers["fingerprint"] != backbone.fingerprint
    assert backbone.ref().fingerprint == backbone.fingerprint


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_lineage_may_mix_versions(
    backbone: Backbone, store: Store, tmp_path: Path, kind: Kind
) -> None:
    manifest, deltas = _descendant(backbone, store, kind=kind, targets=tuple(backbone.sites))
    write_adapter(tmp_path / "new", manifest, deltas)
    published = store.publish(tmp_path / "new", backbone)
    chain = read_lineage(store, "new", backbone)
    assert [link.manifest.format_version for link in chain] == [1, 1, 2]
    assert [link.manifest.backbone.fingerprint for link in chain] == [
        backbone.fingerprints[1], backbone.fingerprints[1], backbone.fingerprint
    ]  # fmt: skip
    assert read_ancestors(["new"], store.root, backbone)[-1].digest == published.digest
    flat = flatten(store, "new", backbone, tmp_path / "flat", created="2026-01-01T00:00:00Z")
    assert flat.manifest.format_version == 2
    assert flat.manifest.targets == tuple(backbone.sites)
    sums = read_adapter(tmp_path / "flat", backbone).deltas
    for name, delta in sums.items():
        expected = sum(
            (link.deltas[name].to_dense() for link in chain if name in link.deltas),
            torch.zeros(backbone.sites[name].shape),
        )
        assert torch.equal(delta.to_dense(), expected)


def test_an_ancestor_of_another_backbone_is_refused(
    backbone: Backbone, store: Store, tmp_path: Path
) -> None:
    """Its first fingerprint is another, as where q or v differ."""
    manifest, deltas = _descendant(backbone, store)
    write_adapter(tmp_path / "new", manifest, deltas)
    other = replace(backbone, fingerprints=(backbone.fingerprint, "0" * 64))
    with pytest.raises(MissingAncestor, match="another backbone"):
        store.publish(tmp_path / "new", other)


def test_old_files_are_published_again(
    answers: Any, backbone: Backbone, store: Store, tmp_path: Path
) -> None:
    """Into a new store: the same bytes, the same versions."""
    new = Store(tmp_path / "new")
    for task in ("factors", "plain", "descendant", "lowrank"):
        for version in answers["versions"][task]:
            assert new.publish(store.path_of(version), backbone).digest == version
    assert new.pointers() == store.pointers()


@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_rules_of_version_1_refuse_version_2_by_name(backbone: Backbone, kind: Kind) -> None:
    """manifest.json has the rules as the code before version 2 had them."""
    rules = json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))
    manifest, _ = random_adapter(backbone, kind=kind)
    version = rules["properties"]["format_version"]
    assert version["maximum"] == 1 < manifest.format_version
    assert rules["additionalProperties"] is False
    assert "profile" not in rules["properties"]


def test_a_reader_of_version_1_refuses_a_file_of_version_2_by_name(
    backbone: Backbone, tmp_path: Path
) -> None:
    """The reader is that of the commit before version 2, where the clone has it."""
    root = Path(__file__).parents[2]
    code = subprocess.run(
        ["git", "-C", str(root), "archive", BEFORE, "adapters/jumplora_adapters"],
        capture_output=True, timeout=60,
    )  # fmt: skip
    if code.returncode != 0:
        pytest.skip(f"no commit {BEFORE} here")
    with tarfile.open(fileobj=io.BytesIO(code.stdout)) as archive:
        archive.extractall(tmp_path, filter="data")
    manifest, deltas = random_adapter(backbone)
    write_adapter(tmp_path / "new", manifest, deltas)
    program = (
        "import pathlib, sys\n"
        "from jumplora_adapters.backbone import read_backbone\n"
        "from jumplora_adapters.errors import FormatError\n"
        "from jumplora_adapters.format import read_adapter\n"
        "backbone, old, new = (pathlib.Path(path) for path in sys.argv[1:])\n"
        "read_adapter(old, read_backbone(backbone))\n"
        "try:\n"
        "    read_adapter(new, read_backbone(backbone))\n"
        "except FormatError as error:\n"
        "    print(error.code, error)\n"
    )
    old = Store(GOLDEN / "store")
    answer = subprocess.run(
        [
            sys.executable, "-c", program, str(backbone.path),
            str(old.path_of(old.current("plain"))), str(tmp_path / "new"),
        ],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "adapters")},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("manifest the manifest is not valid: format_version:")
