"""Versions that tell themselves apart by their answers, and the engine that knows the answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.delta import SparseDelta
from jumplora_adapters.errors import AdapterError
from jumplora_adapters.format import read_adapter, write_adapter
from jumplora_bench.backbone import write_backbone
from jumplora_bench.masked import draw
from jumplora_bench.reliability import versions
from jumplora_bench.reliability.versions import PROMPTS, Oracle, make_version, make_versions

Setting = tuple[Backbone, Oracle]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    backbone = read_backbone(write_backbone(tmp_path_factory.mktemp("versions") / "b", "tiny"))
    return backbone, Oracle(backbone)


def test_a_version_is_a_file_under_its_digest_with_its_answers(
    setting: Setting, tmp_path: Path
) -> None:
    backbone, oracle = setting
    made = make_version(oracle, backbone, tmp_path / "made", "task", 3)
    adapter = read_adapter(made.path, backbone)
    assert adapter.manifest.task == made.task == "task"
    assert adapter.digest == made.digest
    assert made.content == made.path.read_bytes()
    assert len(made.texts) == len(PROMPTS)
    assert oracle.texts(made.path) == made.texts, "whatever was asked before"
    assert adapter.manifest.prompt is not None
    assert adapter.manifest.prompt.options == ("a", "b")


def test_versions_of_a_task_answer_differently(setting: Setting, tmp_path: Path) -> None:
    backbone, oracle = setting
    made = make_versions(oracle, backbone, tmp_path, "task", range(3))
    assert len({version.texts for version in made}) == 3
    assert len({version.digest for version in made}) == 3


def test_a_version_that_answers_as_another_is_made_anew(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, oracle = setting
    seeds: list[int] = []
    real = make_version

    def noting(*given: object) -> versions.Version:
        seeds.append(given[4])  # type: ignore[arg-type]
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(versions, "make_version", noting)
    first, second = make_versions(oracle, backbone, tmp_path, "task", [5, 5])
    assert seeds == [5, 5, 1005]
    assert first.texts != second.texts


def test_numbers_that_are_not_finite_have_no_text(setting: Setting, tmp_path: Path) -> None:
    backbone, oracle = setting
    adapter = draw(backbone, "task", density=0.5, seed=1)
    deltas = {
        name: replace(delta, values=torch.full_like(delta.values, 3e38))
        for name, delta in adapter.deltas.items()
        if isinstance(delta, SparseDelta)
    }
    write_adapter(tmp_path / "huge", adapter.manifest, deltas)
    assert set(oracle.texts(tmp_path / "huge")) == {None}


def test_a_file_of_no_use_is_an_error_of_the_reader(setting: Setting, tmp_path: Path) -> None:
    (tmp_path / "none").write_bytes(b"x" * 100)
    with pytest.raises(AdapterError):
        setting[1].texts(tmp_path / "none")
