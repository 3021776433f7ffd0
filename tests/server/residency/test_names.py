"""Names that are like an unknown one: found without a look at all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_server.residency.names import MAX_COMPARED, MAX_LOOKED_AT, Names

TASKS = ("agnews", "dbpedia", "amazon", "yelp", "mnli", "qqp", "boolq", "cb", "rte", "sst2")
ids = st.text(alphabet="abcXYZ019._-", min_size=1, max_size=64)


def names_of(*names: str) -> Names:
    known = Names()
    for name in names:
        known.add(name)
    return known


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        pytest.param("agnew", "agnews", id="a letter less"),
        pytest.param("agnewss", "agnews", id="a letter more"),
        pytest.param("AGNews", "agnews", id="upper case"),
        pytest.param("gnews", "agnews", id="the first letter less"),
        pytest.param("dbpedai", "dbpedia", id="two exchanged"),
        pytest.param("mnil", "mnli", id="two of four exchanged"),
        pytest.param("amazon-v2", "amazon", id="something behind"),
        pytest.param("cbb", "cb", id="short"),
    ],
)
def test_near_misses(asked: str, found: str) -> None:
    assert names_of(*TASKS).closest(asked)[0] == found


def test_nothing_near() -> None:
    assert names_of(*TASKS).closest("zzz") == []
    assert Names().closest("agnews") == []


def test_the_best_come_first_and_not_more_than_asked() -> None:
    known = names_of("task-100", "task-10", "task-1000", "other")
    assert known.closest("task-100") == ["task-100", "task-1000", "task-10"]
    assert known.closest("task-100", 1) == ["task-100"]


@given(st.lists(ids, max_size=8), ids)
def test_a_known_name_is_closest_to_itself_until_it_goes(others: list[str], name: str) -> None:
    known = names_of(*others, name, name)
    assert name in known.closest(name, MAX_COMPARED)
    known.discard(name)
    assert name not in known.closest(name, MAX_COMPARED)
    for other in others:
        known.discard(other)
    assert known._having == {}


def test_what_is_rare_in_a_name_finds_it_among_many_that_are_alike() -> None:
    known = names_of(*(f"task-{number:05d}" for number in range(5 * MAX_LOOKED_AT)), "task-quiz")
    assert known.closest("task-quix")[0] == "task-quiz"
    assert known.closest("task-01234x")[0] == "task-01234"
