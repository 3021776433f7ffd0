"""The numbers of groups against runs whose scores are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jumplora_adapters.continual.report.comparisons import comparisons
from jumplora_adapters.continual.report.curves import (
    density_curves,
    task_ends,
    threshold_curves,
)
from jumplora_adapters.continual.report.pairs import mean_pairs
from jumplora_adapters.continual.report.runs import read_runs
from jumplora_adapters.continual.report.spread import Spread
from jumplora_adapters.continual.report.summary import (
    GroupSummary,
    TrainingWarning,
    label_loss,
    summarise,
)
from run_folders import change, write_run

BACKBONE = {"name": "other-t5", "fingerprint": "b" * 64}


def summaries(folder: Path, *runs: dict[str, Any]) -> tuple[GroupSummary, ...]:
    folders = [write_run(folder / str(n), **values) for n, values in enumerate(runs)]
    return summarise(read_runs(folders)[0])


def mean_of(value: Spread | None) -> float:
    assert value is not None
    return value.mean


def test_a_chain_of_two_seeds(tmp_path: Path) -> None:
    # own 0.8 falls by 0.1 a task: the last row is 0.5, 0.6, 0.7, 0.8.
    (group,) = summaries(tmp_path, {"own": 0.8}, {"own": 0.9, "seed": 1})
    free = group.measures["exact_match"]
    overall = free["overall"]
    assert overall is not None
    assert overall.mean == pytest.approx(0.7)
    assert overall.deviation == pytest.approx(0.1 / 2**0.5)
    assert mean_of(free["backward"]) == pytest.approx(-(0.3 + 0.2 + 0.1) / 3)
    assert mean_of(free["forgetting"]) == pytest.approx(0.2)
    assert mean_of(free["zero_shot"]) == pytest.approx(0.05)
    assert mean_of(free["own"]) == pytest.approx(0.85)
    assert mean_of(free["alone"]) == pytest.approx(0.65)
    assert mean_of(group.measures["best_option"]["overall"]) == pytest.approx(0.75)
    for name in ("final_over_scratch", "own_over_scratch", "independent"):
        assert free[name] is None
    assert mean_of(group.cells["exact_match"][4]["dbpedia"]) == pytest.approx(0.55)
    assert set(group.cells["exact_match"][1]) == {"dbpedia", "amazon"}


def test_costs(tmp_path: Path) -> None:
    (group,) = summaries(tmp_path, {}, {"seed": 1})
    costs = group.costs
    assert mean_of(costs["density"]) == pytest.approx(0.12)
    # Pairs: one with amazon (0.09), two with yahoo (0.10), three with agnews (0.11).
    assert mean_of(costs["jaccard"]) == pytest.approx((0.09 + 0.2 + 0.33) / 6)
    assert mean_of(costs["chance"]) == pytest.approx(0.064)
    assert mean_of(costs["times_chance"]) == pytest.approx(0.62 / 6 / 0.064)
    assert mean_of(costs["minutes"]) == pytest.approx((120 + 124) / 2 / 60)
    assert mean_of(costs["seconds_per_step"]) == pytest.approx(0.75)
    assert mean_of(costs["peak_memory_bytes"]) == 400_000_004


def test_dense_updates_have_no_overlap_and_no_gate(tmp_path: Path) -> None:
    (group,) = summaries(tmp_path, {"gate": "none"})
    assert group.costs["jaccard"] is group.costs["times_chance"] is None
    assert mean_of(group.costs["density"]) == 1
    assert group.gate == ()
    assert mean_pairs(group.group) == ()
    assert not any(density_curves(group.group))


def test_independent_adapters_are_what_the_others_are_measured_against(tmp_path: Path) -> None:
    chain, alone = summaries(tmp_path, {}, {"method": "independent", "own": 0.6, "order": "o2"})
    free = chain.measures["exact_match"]
    assert mean_of(free["final_over_scratch"]) == pytest.approx(0.65 - 0.6)
    assert mean_of(free["own_over_scratch"]) == pytest.approx(0.8 - 0.6)
    assert mean_of(free["independent"]) == pytest.approx(0.6)
    own = alone.measures["exact_match"]
    assert mean_of(own["overall"]) == mean_of(own["independent"]) == pytest.approx(0.6)
    assert own["backward"] is own["forgetting"] is own["zero_shot"] is None
    assert own["final_over_scratch"] is None


@pytest.mark.parametrize(
    "other",
    [
        {"gate": "none"},
        {"seed": 1},
        {"backbone": BACKBONE},
        {"tasks": ("dbpedia", "amazon")},
        {"hyper_parameters": {"rank": 16}},
        {"hyper_parameters": {"estimator": "sum"}},
        {"prune": [0.1] * 4},
    ],
    ids=["gate", "seed", "backbone", "tasks", "rank", "estimator", "pruned"],
)
def test_independent_adapters_of_another_setting_are_no_measure(
    tmp_path: Path, other: dict[str, object]
) -> None:
    chain, _ = summaries(tmp_path, {}, {"method": "independent", **other})
    assert chain.measures["exact_match"]["final_over_scratch"] is None
    assert chain.measures["exact_match"]["independent"] is None


def test_scratch_of_one_seed_of_two(tmp_path: Path) -> None:
    chain, _ = summaries(tmp_path, {}, {"seed": 1}, {"method": "independent", "own": 0.6})
    transfer = chain.measures["exact_match"]["own_over_scratch"]
    assert transfer is not None
    assert (transfer.count, transfer.deviation) == (1, None)


def test_joint_training(tmp_path: Path) -> None:
    (group,) = summaries(tmp_path, {"method": "joint", "own": 0.7})
    free = group.measures["exact_match"]
    assert mean_of(free["overall"]) == pytest.approx(0.7)
    assert [name for name, value in free.items() if value] == ["overall"]
    assert len(group.cells["exact_match"]) == 2


def test_without_options(tmp_path: Path) -> None:
    (group,) = summaries(tmp_path, {"options": None})
    assert not any(group.measures["best_option"].values())
    assert group.cells["best_option"] == ({}, {}, {}, {}, {})
    assert group.label_loss is None


def test_label_loss() -> None:
    def seeds(*values: float | None) -> dict[int, Any]:
        return {seed: {"backward": value} for seed, value in enumerate(values)}

    assert label_loss(seeds(-0.2, -0.4), seeds(-0.1, -0.05)) == pytest.approx(1 - 0.075 / 0.3)
    assert label_loss(seeds(-0.2, -0.4), seeds(-0.1, None)) == pytest.approx(0.5)
    assert label_loss(seeds(-0.2), seeds(0.02)) == pytest.approx(1.1)
    assert label_loss(seeds(0.0), seeds(-0.1)) is None
    assert label_loss(seeds(None), seeds(None)) is None


def test_thresholds_and_warnings(tmp_path: Path) -> None:
    (group,) = summaries(tmp_path, {}, {"seed": 1, "warnings": ["the gate keeps nothing"]})
    first = group.gate[0]
    assert (first.task, first.warnings) == ("dbpedia", 1)
    assert first.ratio.mean == pytest.approx(1.5)
    assert first.start.count == 2
    assert group.warnings == (TrainingWarning(1, "dbpedia", "the gate keeps nothing"),)


def test_curves_count_steps_through_all_tasks(tmp_path: Path) -> None:
    (group,) = summaries(tmp_path, {}, {"seed": 1})
    assert task_ends(group.group) == (38, 76, 114, 152)
    densities, thresholds = density_curves(group.group), threshold_curves(group.group)
    assert [step for step, _ in densities[1]] == [46, 58, 68, 76]
    last = densities[3][-1][1]
    assert last.mean == pytest.approx(0.1205)
    assert last.deviation == pytest.approx(0.001 / 2**0.5)
    assert thresholds[0][0] == (8, Spread(0.002, 0.0, 2))


def test_a_step_that_one_seed_lacks_is_left_out(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    change(folders[1], "tasks/1-dbpedia/result.json", density_by_step=[[20, 0.5], [21, 0.5]])
    (group,) = summarise(read_runs(folders)[0])
    assert [step for step, _ in density_curves(group.group)[0]] == [20]


def test_pairs_are_means_over_seeds(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    pair = {"first": "amazon", "second": "dbpedia", "jaccard": 0.19, "chance": 0.1}
    change(folders[1], "overlap.json", pairs=[pair])
    (group,) = summarise(read_runs(folders)[0])
    first = mean_pairs(group.group)[0]
    assert (first.first, first.second) == (0, 1)
    assert first.jaccard == pytest.approx((0.09 + 0.19) / 2)
    assert first.chance == pytest.approx(0.082)


def test_published_differences_beside_measured_ones(tmp_path: Path) -> None:
    found = comparisons(
        summaries(
            tmp_path,
            *({"seed": seed, "own": 0.8 + seed / 100} for seed in (0, 1, 2)),
            *({"seed": seed, "gate": "none", "loss": 0.2} for seed in (0, 1, 3)),
            {"gate": "none", "prune": [0.12] * 4, "loss": 0.1},
        )
    )
    told = {(c.second, c.measure, c.scoring): c for c in found}
    overall = told["IncLoRA", "overall", "exact_match"]
    assert overall.first == "JumpLoRA + IncLoRA"
    assert overall.published == pytest.approx({"SC": 0.09, "LS": 0.0786})
    # Seeds 0 and 1: 0.65 - 0.5 and 0.66 - 0.5.
    assert overall.difference.mean == pytest.approx(0.155)
    assert overall.difference.count == 2
    assert overall.verdict == "agrees"
    backward = told["IncLoRA", "backward", "exact_match"]
    assert backward.published == pytest.approx({"SC": 0.11})
    assert backward.difference.mean == pytest.approx(0.2)
    pruned = told["IncLoRA pruned to 12.0 %", "overall", "exact_match"]
    assert (pruned.published, pruned.verdict, pruned.is_decided) == ({}, None, False)


def test_ella_has_a_published_accuracy_only(tmp_path: Path) -> None:
    found = comparisons(
        summaries(
            tmp_path,
            *({"method": "ella", "seed": seed, "own": 0.7 + seed / 50} for seed in (0, 1)),
            *({"method": "ella", "gate": "none", "seed": seed} for seed in (0, 1)),
        )
    )
    overall, _, backward, _ = found
    assert overall.published == pytest.approx({"SC": 0.0062, "LS": 0.0115})
    assert overall.difference.mean == pytest.approx(-0.09)
    assert overall.verdict == "disagrees"
    assert (backward.published, backward.verdict) == ({}, None)


@pytest.mark.parametrize(
    "other",
    [
        {"method": "ella"},
        {"backbone": BACKBONE},
        {"order": "order2", "tasks": ("amazon", "dbpedia", "yahoo", "agnews")},
        {"hyper_parameters": {"learning_rate": 0.01}},
        {"seed": 1},
    ],
    ids=["method", "backbone", "order", "rate", "seed"],
)
def test_runs_that_do_not_compare(tmp_path: Path, other: dict[str, object]) -> None:
    assert comparisons(summaries(tmp_path, {}, {"gate": "none", **other})) == ()
