"""What `train` chooses for a file of so many rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_adapters.training.batches import steps_of
from jumplora_adapters.training.config import Optimisation
from jumplora_adapters.training.pace import LEAST_STEPS, MANY_ROWS, paced, told
from jumplora_adapters.training.schedule import Schedule

METHOD = Optimisation()


def chosen(
    rows: int,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
) -> Optimisation:
    return paced(METHOD, rows, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate)


@given(st.integers(MANY_ROWS, 10**7))
def test_many_rows_keep_the_methods_own(rows: int) -> None:
    assert chosen(rows) == METHOD


@given(st.integers(1, MANY_ROWS - 1), st.sampled_from([1, 2, 5]))
def test_few_rows_have_enough_steps_and_no_epoch_more(rows: int, accumulate: int) -> None:
    some = paced(
        replace(METHOD, accumulate=accumulate),
        rows,
        epochs=None,
        batch_size=None,
        learning_rate=None,
    )
    an_epoch = steps_of(rows, some.batch_size * accumulate)
    assert some.epochs * an_epoch >= LEAST_STEPS
    assert (some.epochs - 1) * an_epoch < LEAST_STEPS
    Schedule.of(some.epochs * an_epoch)


def test_an_option_is_kept_and_the_rest_follows_it() -> None:
    assert chosen(45) == Optimisation(epochs=20, batch_size=16, learning_rate=0.002)
    assert chosen(45, epochs=3) == Optimisation(epochs=3, batch_size=16, learning_rate=0.002)
    assert chosen(45, batch_size=5) == Optimisation(epochs=7, batch_size=5, learning_rate=0.002)
    assert chosen(45, learning_rate=1.0).learning_rate == 1.0
    assert chosen(5000, batch_size=5) == Optimisation(batch_size=5)


@pytest.mark.parametrize(("rows", "given"), [(0, {}), (45, {"batch_size": 0})])
def test_what_is_refused_later_is_no_error_here(rows: int, given: dict[str, int]) -> None:
    assert chosen(rows, **given).epochs >= 1


def test_it_is_told_in_a_line() -> None:
    assert told(chosen(45), 45) == (
        "45 rows: 20 epochs of 3 steps, 16 rows a step, learning rate 0.002"
    )
    assert told(replace(METHOD, max_steps=5, accumulate=2), 2000) == (
        "2,000 rows: 5 steps, 64 rows a step, learning rate 0.001"
    )
    assert told(METHOD, 1).startswith("1 row: 1 epoch of 1 step, ")
