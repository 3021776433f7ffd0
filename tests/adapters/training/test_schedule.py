"""The schedule's step counts, from the published rule worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_adapters.errors import TaskTooSmall
from jumplora_adapters.training.schedule import Schedule, learning_rate


@pytest.mark.parametrize(
    ("steps", "gate_step", "full_step"),
    [(5, 1, 4), (6, 1, 4), (9, 1, 7), (10, 2, 8), (15, 3, 12), (100, 20, 80), (349, 69, 279)],
)
def test_of(steps: int, gate_step: int, full_step: int) -> None:
    assert Schedule.of(steps) == Schedule(steps, gate_step, full_step)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_too_few_steps_are_refused(steps: int) -> None:
    with pytest.raises(TaskTooSmall, match=f"at least 5 .* has {steps}"):
        Schedule.of(steps)


def test_fraction_is_zero_then_linear_then_one() -> None:
    schedule = Schedule.of(10)
    fractions = [schedule.fraction(step) for step in range(11)]
    assert fractions == pytest.approx([0, 0, 0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1])


@given(st.integers(5, 100_000))
def test_every_run_has_all_three_phases(steps: int) -> None:
    schedule = Schedule.of(steps)
    assert 1 <= schedule.gate_step < schedule.full_step < steps
    assert schedule.fraction(schedule.gate_step) == 0.0
    assert schedule.fraction(schedule.full_step) == 1.0


@pytest.mark.parametrize(
    ("step", "warm_up", "decay", "expected"),
    [
        (0, 0, "constant", 1.0),
        (9, 0, "constant", 1.0),
        (0, 4, "constant", 0.25),
        (3, 4, "constant", 1.0),
        (0, 0, "linear", 1.0),
        (5, 0, "linear", 0.5),
        (9, 0, "linear", 0.1),
        (2, 2, "linear", 1.0),
    ],
)
def test_learning_rate(step: int, warm_up: int, decay: str, expected: float) -> None:
    assert learning_rate(1.0, step, 10, warm_up=warm_up, decay=decay) == pytest.approx(expected)
