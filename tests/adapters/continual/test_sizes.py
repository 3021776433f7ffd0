"""What each method's stages are reckoned with, and what may still be taken of this machine."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open

from continual_data import short_run, write_benchmark
from jumplora_adapters.continual.environment import changed_environment
from jumplora_adapters.continual.memory import (
    TrainingSizes,
    _free_bytes,
    _sizes,
    available_bytes,
    estimate,
    estimate_of,
    share_of_memory,
)
from jumplora_adapters.continual.prepare import Prepared, prepare
from jumplora_adapters.errors import DataError
from jumplora_adapters.training.config import GateConfig
from jumplora_adapters.training.targets import targets_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmark(tmp_path_factory.mktemp("sizes") / "data")


def prepared(method: str, backbone: Path, data: Path, out: Path) -> Prepared:
    changes = {} if method in ("inclora", "seqlora") else {"gate": None}
    return prepare(short_run(backbone, data, out, method=method, **changes))


def sizes(found: Prepared) -> list[TrainingSizes]:
    return [_sizes(found, stage) for stage in found.stages]


@pytest.mark.parametrize("method", ["inclora", "ella", "olora"])
def test_what_is_kept_of_earlier_tasks(
    method: str, backbone_folder: Path, data: Path, tmp_path: Path
) -> None:
    found = prepared(method, backbone_folder, data, tmp_path / "run")
    entries = sum(d_out * d_in for d_out, d_in in found.backbone.targets.values())
    inputs = sum(2 * d_in for _, d_in in found.backbone.targets.values())  # of rank 2
    expected = {
        "inclora": [0, 0, 0, 0],
        "ella": [0, entries, entries, entries],
        "olora": [0, inputs, 2 * inputs, 3 * inputs],
    }
    assert [each.past_entries for each in sizes(found)] == expected[method]


FORMS: dict[str, dict[str, Any]] = {
    "gate": {"gate": GateConfig()},
    "prune": {"gate": None, "prune": (0.25,)},
    "dense": {"gate": None},
}


@pytest.mark.parametrize("method", ["inclora", "olora"])
@pytest.mark.parametrize("targets", [("*.q", "*.v"), ("all-linear", "lm_head")], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_adapters_take_what_they_take_in_files(
    method: str, targets: tuple[str, ...], form: str, backbone_folder: Path, data: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    changes = FORMS[form]
    found = prepare(
        short_run(
            backbone_folder, data, tmp_path / "run", method=method, targets=targets, **changes
        )
    )
    shapes = [found.backbone.sites[n].shape for n in targets_of(found.backbone, targets)]
    assert all(each.targets == tuple(shapes) for each in sizes(found))
    one = 0
    for d_out, d_in in shapes:
        factors = 2 * (d_out + d_in)  # of rank 2
        if form == "dense":
            one += 4 * factors
            continue
        one += d_out * d_in // 8 + 2 * (d_out * d_in // 4)  # a quarter of the entries
        one += 4 * factors if method == "olora" else 0
    assert [each.adapter_bytes for each in sizes(found)] == [n * one for n in (1, 2, 3, 4)]


def test_a_stage_is_as_large_as_its_longest_rows(
    backbone_folder: Path, data: Path, tmp_path: Path
) -> None:
    found = prepared("inclora", backbone_folder, data, tmp_path / "run")
    for stage, each in zip(found.stages, sizes(found), strict=True):
        assert each.source == max(len(example.source) for example in stage.examples)
        assert each.target == max(len(example.target) for example in stage.examples)
        assert each.rows == found.config.optimisation.batch_size
        assert each.is_gated
        assert each.rank == 2


def test_fewer_examples_than_a_batch_are_fewer_rows(
    backbone_folder: Path, data: Path, tmp_path: Path
) -> None:
    found = prepared("inclora", backbone_folder, data, tmp_path / "run")
    few = replace(found.stages[0], examples=found.stages[0].examples[:2])
    assert _sizes(found, few).rows == 2


def test_a_run_needs_what_its_largest_stage_needs(
    backbone_folder: Path, data: Path, tmp_path: Path
) -> None:
    found = prepared("olora", backbone_folder, data, tmp_path / "run")
    totals = [estimate_of(each).total for each in sizes(found)]
    assert estimate(found).total == max(totals)
    assert totals[-1] > totals[0], "O-LoRA keeps more with each task"


def test_tied_weights_count_once(backbone_folder: Path, data: Path, tmp_path: Path) -> None:
    found = prepared("inclora", backbone_folder, data, tmp_path / "run")
    with safe_open(backbone_folder / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert {each.weights for each in sizes(found)} == {stored}


def test_processes_of_a_cpu_share_what_is_free(
    backbone_folder: Path, data: Path, tmp_path: Path
) -> None:
    found = prepared("inclora", backbone_folder, data, tmp_path / "run")
    cpu = torch.device("cpu")
    assert share_of_memory(found) == pytest.approx(available_bytes(cpu), rel=0.2)
    two = replace(found, processes=SimpleNamespace(count=2))  # type: ignore[arg-type]
    assert share_of_memory(two) == pytest.approx(available_bytes(cpu) / 2, rel=0.2)


def test_no_more_is_available_than_the_machine_has() -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < _free_bytes() <= whole
    assert 0 < available_bytes(torch.device("cpu")) <= whole


@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        pytest.param({"a": 1, "b": 2}, {"a": 1, "b": 2}, "", id="nothing"),
        pytest.param({"a": 1, "b": 2}, {"a": 1, "b": 3}, "b 2, now 3", id="one"),
        pytest.param({"b": 2}, {"c": 3}, "b 2, now None, c None, now 3", id="names too"),
    ],
)
def test_what_is_other_now(
    then: dict[str, int], now: dict[str, int], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "environment.json"
    path.write_text(json.dumps(then))
    assert changed_environment(path, now) == told


@pytest.mark.parametrize("content", [None, "{", "7", '["a"]'])
def test_what_is_no_runs_environment(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match="does not describe a run's machine"):
        changed_environment(path, {})
