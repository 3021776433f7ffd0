"""Which runs are one group, and what it is called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jumplora_adapters.continual.report.groups import are_comparable, group_runs
from jumplora_adapters.continual.report.runs import Run, read_runs
from jumplora_adapters.errors import DataError
from run_folders import TASKS, change, write_run

Make = Callable[..., Run]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """One more run, in a folder of its own."""
    count = 0

    def make(**values: Any) -> Run:
        nonlocal count
        count += 1
        ((run,), _) = read_runs([write_run(tmp_path / str(count), **values)])
        return run

    return make


def labels(*runs: Run) -> list[str]:
    return [group.label for group in group_runs(runs)]


def test_seeds_are_grouped_and_ordered(make: Make) -> None:
    group, other = group_runs([make(seed=2), make(gate="none", seed=1), make(seed=0)])
    assert group.seeds == (0, 2)
    assert group.label == "JumpLoRA + IncLoRA"
    assert (other.label, other.seeds) == ("IncLoRA", (1,))


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ({"method": "seqlora"}, "JumpLoRA + SeqLoRA"),
        ({"method": "ella", "gate": "none"}, "ELLA"),
        ({"method": "olora"}, "JumpLoRA + O-LoRA"),
        ({"method": "independent"}, "independent JumpLoRA"),
        ({"method": "joint", "gate": "none"}, "joint LoRA"),
        ({"gate": "none", "prune": [0.12, 0.12, 0.12, 0.136]}, "IncLoRA pruned to 12.4 %"),
    ],
)
def test_names(make: Make, values: dict[str, object], label: str) -> None:
    assert labels(make(**values)) == [label]


def test_a_label_has_what_differs_and_nothing_else(make: Make) -> None:
    assert labels(
        make(hyper_parameters={"rank": 8}),
        make(hyper_parameters={"rank": 16, "train_rows": None}),
        make(method="ella", hyper_parameters={"rank": 8}),
    ) == [
        "JumpLoRA + IncLoRA, r 8, train rows 1200",
        "JumpLoRA + IncLoRA, r 16, train rows all",
        "JumpLoRA + ELLA, r 8, train rows 1200",
    ]


def test_settings_of_a_gate_or_a_method_count_where_they_are_used(make: Make) -> None:
    assert labels(
        make(hyper_parameters={"estimator": "mean"}),
        make(hyper_parameters={"estimator": "sum"}),
        make(gate="none"),
        make(method="ella", gate="none", hyper_parameters={"ella_lambda": 30000.0}),
        make(method="ella", gate="none", hyper_parameters={"ella_lambda": 300.0}),
    ) == [
        "JumpLoRA + IncLoRA, estimator mean",
        "JumpLoRA + IncLoRA, estimator sum",
        "IncLoRA",
        "ELLA, ella lambda 30000",
        "ELLA, ella lambda 300",
    ]


def test_a_gated_run_of_ella_by_the_old_rule_is_compared_with_no_other(
    make: Make, tmp_path: Path
) -> None:
    """Its term gave the threshold a gradient until 2026-11-27; such runs do not say `factors`."""
    folder = write_run(tmp_path / "old", method="ella")
    config = json.loads((folder / "config.json").read_text())
    del config["hyper_parameters"]["ella_reaches"]
    (folder / "config.json").write_text(json.dumps(config))
    ((old,), _) = read_runs([folder])
    dense = make(method="ella", gate="none")
    assert are_comparable(make(method="ella"), dense)
    assert not are_comparable(old, dense)
    assert len(group_runs([old, make(method="ella", seed=1)])) == 2


def test_a_plain_loras_dropout_is_of_no_gated_run(make: Make) -> None:
    gated = make(method="ella", hyper_parameters={"dropout": 0.1})
    numbers = {"dropout": 0.1, "lora_dropout": 0.1}
    dense = make(method="ella", gate="none", hyper_parameters=numbers)
    undropped = make(method="ella", gate="none", hyper_parameters={"dropout": 0.1})
    assert are_comparable(gated, dense)
    assert are_comparable(gated, undropped)
    assert not are_comparable(dense, undropped)


def test_orders(make: Make) -> None:
    turned = tuple(reversed(TASKS))
    assert labels(make(), make(order="order2", tasks=turned)) == [
        "JumpLoRA + IncLoRA, order1",
        "JumpLoRA + IncLoRA, order2",
    ]
    assert labels(make(tasks=("a", "b")), make(tasks=("b", "a"))) == [
        "JumpLoRA + IncLoRA, order1 (a b)",
        "JumpLoRA + IncLoRA, order1 (b a)",
    ]


def test_a_backbone_is_its_fingerprint_and_weights(make: Make) -> None:
    ours = {"name": "tiny", "fingerprint": "a" * 64, "weights": "0" * 64}
    moved = {**ours, "name": "models/tiny"}
    other = {**ours, "weights": "1" * 64}
    one, two = group_runs([make(backbone=ours), make(backbone=moved, seed=1), make(backbone=other)])
    assert one.seeds == (0, 1)
    assert one.label == "JumpLoRA + IncLoRA, tiny 00000000"
    assert two.label == "JumpLoRA + IncLoRA, tiny 11111111"


def test_other_rows_of_a_task_are_another_group(make: Make, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "other", seed=1)
    change(folder, "config.json", data={task: {"train": "3" * 64} for task in TASKS})
    ((other,), _) = read_runs([folder])
    one, two = labels(make(), other)
    assert one.startswith("JumpLoRA + IncLoRA, settings ")
    assert two.startswith("JumpLoRA + IncLoRA, settings ")
    assert one != two


def test_where_and_when_a_run_ran_plays_no_part(make: Make, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "other", seed=1)
    change(folder, "config.json", created="later", processes=2, merged_task="all", canaries={})
    ((other,), _) = read_runs([folder])
    (group,) = group_runs([make(), other])
    assert group.seeds == (0, 1)


def test_prunings_of_several_seeds_are_one_group(make: Make) -> None:
    (group,) = group_runs(
        [
            make(gate="none", prune=[0.12] * 4, seed=0),
            make(gate="none", prune=[0.13] * 4, seed=1),
        ]
    )
    assert group.seeds == (0, 1)
    assert group.label == "IncLoRA pruned to 12.5 %"


def test_prunings_of_one_seed_are_two_groups(make: Make) -> None:
    assert labels(make(gate="none", prune=[0.12] * 4), make(gate="none", prune=[0.05] * 4)) == [
        "IncLoRA pruned to 12.0 %",
        "IncLoRA pruned to 5.0 %",
    ]


def test_a_seed_that_stands_twice_is_an_error(make: Make) -> None:
    first, second = make(seed=1), make(seed=1)
    with pytest.raises(DataError) as failed:
        group_runs([first, second])
    assert str(failed.value) == (
        f"{first.folder} and {second.folder} are the same run: one setting, seed 1; give one of "
        "them"
    )
