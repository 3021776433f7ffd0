"""The measures against a matrix worked out by hand."""

from __future__ import annotations

import pytest

from jumplora_adapters.continual.metrics import (
    ScoreMatrix,
    backward_transfer,
    final_over_scratch,
    forgetting,
    joint_accuracy,
    overall_accuracy,
    own_accuracy,
    own_over_scratch,
    own_scores,
    zero_shot_transfer,
)

# Three tasks; b is at its best one task after its own, and a recovers at the end.
CHAIN = ScoreMatrix(
    tasks=("a", "b", "c"),
    bare={"a": 0.1, "b": 0.2, "c": 0.0},
    after=(
        {"a": 0.8, "b": 0.3},
        {"a": 0.5, "b": 0.6, "c": 0.1},
        {"a": 0.7, "b": 0.2, "c": 0.9},
    ),
)
SCRATCH = {"a": 0.8, "b": 0.7, "c": 0.6}
JOINT = ScoreMatrix(("a", "b"), {"a": 0.1, "b": 0.2}, ({"a": 0.8, "b": 0.6},))
INDEPENDENT = ScoreMatrix(("a", "b"), {"a": 0.1, "b": 0.2}, ({"a": 0.8}, {"b": 0.4}))


def test_a_chain() -> None:
    assert overall_accuracy(CHAIN) == pytest.approx((0.7 + 0.2 + 0.9) / 3)
    assert own_scores(CHAIN) == {"a": 0.8, "b": 0.6, "c": 0.9}
    assert own_accuracy(CHAIN) == pytest.approx(2.3 / 3)
    assert backward_transfer(CHAIN) == pytest.approx((-0.1 - 0.4) / 2)
    assert forgetting(CHAIN) == pytest.approx((0.1 + 0.4) / 2)
    assert zero_shot_transfer(CHAIN) == pytest.approx((0.1 + 0.1) / 2)
    assert final_over_scratch(CHAIN, SCRATCH) == pytest.approx((-0.1 - 0.5 + 0.3) / 3)
    assert own_over_scratch(CHAIN, SCRATCH) == pytest.approx((0.0 - 0.1 + 0.3) / 3)
    assert joint_accuracy(CHAIN) is None


def test_forgetting_is_measured_from_the_best_and_not_from_the_own_stage() -> None:
    risen = ScoreMatrix(
        ("a", "b", "c"),
        {},
        ({"a": 0.5}, {"a": 0.9, "b": 0.4}, {"a": 0.6, "b": 0.7, "c": 1.0}),
    )
    assert backward_transfer(risen) == pytest.approx((0.1 + 0.3) / 2)
    assert forgetting(risen) == pytest.approx((0.3 - 0.3) / 2)


def test_the_zero_shot_score_of_a_task_is_not_a_best_that_was_forgotten() -> None:
    before = ScoreMatrix(("a", "b", "c"), {}, ({"a": 0.5, "b": 0.9}, {"a": 0.5, "b": 0.4}))
    ended = ScoreMatrix(before.tasks, {}, (*before.after, {"a": 0.5, "b": 0.4, "c": 1.0}))
    assert forgetting(ended) == 0.0


def test_joint_training_has_an_accuracy_only() -> None:
    assert joint_accuracy(JOINT) == pytest.approx(0.7)
    assert overall_accuracy(JOINT) is None
    assert own_accuracy(JOINT) is None
    assert backward_transfer(JOINT) is None
    assert forgetting(JOINT) is None
    # The stage is not "after a", so b's score there is transfer from nothing.
    assert final_over_scratch(JOINT, SCRATCH) is None


def test_independent_adapters_have_their_own_scores_only() -> None:
    assert own_accuracy(INDEPENDENT) == pytest.approx(0.6)
    for measure in (overall_accuracy, backward_transfer, forgetting, zero_shot_transfer):
        assert measure(INDEPENDENT) is None


def test_a_run_that_has_not_ended_has_no_overall_accuracy() -> None:
    begun = ScoreMatrix(CHAIN.tasks, CHAIN.bare, CHAIN.after[:2])
    assert overall_accuracy(begun) is None  # though its last stage holds a score for every task
    assert own_accuracy(begun) is None
    assert zero_shot_transfer(begun) == pytest.approx(0.1)


def test_a_missing_cell_makes_no_mean_of_the_others() -> None:
    without: dict[str, float | None] = {"a": 0.7, "b": None, "c": 0.9}
    hole = ScoreMatrix(CHAIN.tasks, CHAIN.bare, (*CHAIN.after[:2], without))
    assert overall_accuracy(hole) is None
    assert backward_transfer(hole) is None
    assert own_accuracy(hole) == pytest.approx(2.3 / 3)
    assert own_over_scratch(CHAIN, {"a": 0.8, "b": 0.7}) is None


def test_one_task_has_nothing_to_forget() -> None:
    alone = ScoreMatrix(("a",), {"a": 0.1}, ({"a": 0.8},))
    assert overall_accuracy(alone) == joint_accuracy(alone) == own_accuracy(alone) == 0.8
    for measure in (backward_transfer, forgetting, zero_shot_transfer):
        assert measure(alone) is None
