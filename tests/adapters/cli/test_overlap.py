from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.store import Store

Run = Callable[..., Result]
RunJson = Callable[..., Any]


def test_every_task_of_a_store(
    run: Run, run_json: RunJson, store: Store, backbone: Backbone
) -> None:
    common = ("--store", store.root, "--backbone", backbone.path)
    (pair,) = run_json("overlap", *common)["pairs"]
    assert (pair["first"], pair["second"]) == ("one", "two")
    p, q = pair["first_density"], pair["second_density"]
    assert pair["chance"] == pytest.approx(p * q / (p + q - p * q), rel=0.05)
    assert pair["times_chance"] == pytest.approx(1, abs=0.2)
    assert pair["jaccard"] == pair["intersection"] / pair["union"]
    text = run("overlap", *common).stdout
    assert f"{pair['jaccard']:.4f}" in text
    assert f"{pair['chance']:.4f}" in text


def test_modules_and_a_lineage_as_a_whole(
    run: Run, run_json: RunJson, store: Store, backbone: Backbone
) -> None:
    common = ("--store", store.root, "--backbone", backbone.path)
    answer = run_json("overlap", "one", "two", *common, "--scope", "lineage", "--modules")
    (pair,) = answer["pairs"]
    assert answer["scope"] == "lineage"
    assert [module["module"] for module in pair["modules"]] == sorted(backbone.targets)
    # `two` stands on `one`, so what it touches with its lineage contains `one`.
    assert pair["intersection"] == sum(module["intersection"] for module in pair["modules"])
    one = store.path_of(store.current("one"))
    (again,) = run_json("overlap", one, "two", *common, "--scope", "lineage")["pairs"]
    assert again["intersection"] == pair["intersection"]
    assert pair["jaccard"] == pytest.approx(pair["first_density"] / pair["second_density"])
    text = run("overlap", "one", "two", *common, "--modules").stdout
    assert "encoder 0 self q " in text
    assert "decoder 0 cross v " in text


def test_the_matrix_is_drawn(run: Run, store: Store, backbone: Backbone, tmp_path: Path) -> None:
    common = ("--store", store.root, "--backbone", backbone.path)
    result = run("overlap", *common, "--plot", tmp_path / "made" / "overlap.png")
    assert (tmp_path / "made" / "overlap.png").read_bytes().startswith(b"\x89PNG")
    assert "overlap.png: the overlap of each pair" in result.stderr
    assert "compared" in result.stderr, "a bar"
    assert run("overlap", *common, "--quiet").stderr == ""
    assert "ends in .png" in run("overlap", *common, "--plot", "a.pdf", code=2).stderr


def test_needs_two_adapters(run: Run, store: Store, backbone: Backbone) -> None:
    common = ("--store", store.root, "--backbone", backbone.path)
    assert "needs two adapters, given 1" in run("overlap", "one", *common, code=2).stderr
    assert "--store" in run("overlap", "--backbone", backbone.path, code=2).stderr
