"""How rows are shared between tasks."""

from __future__ import annotations

import pytest

from jumplora_server.scheduler.shares import RowShares


def holding(rows: int, spare: int, **held: int) -> RowShares:
    """Shares of which tasks hold some rows already."""
    shares = RowShares(rows, spare)
    for task, count in held.items():
        for _ in range(count):
            shares.take(task)
    return shares


def test_spare_rows_are_for_tasks_that_hold_none() -> None:
    shares = holding(6, 2, busy=4)
    assert not shares.may_take("busy", 4)
    assert shares.may_take("quiet", 4)
    shares.take("quiet")
    assert not shares.may_take("quiet", 5)
    assert shares.may_take(None, 5), "the bare backbone is a task of its own"


def test_rows_of_low_priority_count_as_taken() -> None:
    shares = holding(6, 2, busy=3)
    assert shares.may_take("busy", 3)
    assert not shares.may_take("busy", 4)
    assert shares.has_ordinary(3)
    assert not shares.has_ordinary(4)


def test_a_row_that_is_given_back_counts_no_more() -> None:
    shares = holding(3, 1, busy=2)
    shares.give_back("busy")
    shares.give_back("busy")
    assert shares.may_take("busy", 2)


@pytest.mark.parametrize(
    ("waiting", "held", "is_over"),
    [
        ("a", 3, False),
        ("a", 4, True),  # alone, it may have all ordinary rows; and no more
        ("ab", 1, False),
        ("ab", 2, True),
        ("abc", 1, False),  # even shares are rounded up
        ("abc", 2, True),
    ],
)
def test_an_even_share_depends_on_who_is_there(waiting: str, held: int, is_over: bool) -> None:
    shares = holding(6, 2, a=held)
    assert shares.is_over("a", shares.present(set(waiting))) is is_over


def test_tasks_that_run_are_present_too() -> None:
    assert holding(6, 2, a=2, b=1).present({"b", "c"}) == 3


def test_one_row_at_least_is_for_all() -> None:
    with pytest.raises(AssertionError, match="2 of 2 rows"):
        RowShares(2, 2)
