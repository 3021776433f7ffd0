"""Which tasks a key has, by ids and patterns."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_server.access.caller import Caller, TaskPatterns

TASKS = ["a", "ab", "a.b", "A", "a-1", "a*", "", "b"]
PATTERNS = st.lists(st.sampled_from(["a", "a.b", "a*", "?", "a?b", "[ab]", "b", "*1", "a|b"]))


@given(PATTERNS, st.sampled_from(TASKS))
def test_a_task_is_one_of_them_where_any_pattern_fits(patterns: list[str], task: str) -> None:
    expected = any(fnmatchcase(task, pattern) for pattern in patterns)
    assert (task in TaskPatterns.of(patterns)) == expected
    assert Caller(tasks=TaskPatterns.of(patterns)).may_see(task) == expected


def test_they_are_values() -> None:
    assert TaskPatterns.of(["b", "a*", "b"]) == TaskPatterns(("a*", "b"))
    assert hash(TaskPatterns.of(["b", "a*"])) == hash(TaskPatterns(("a*", "b")))
    assert repr(TaskPatterns(("a*",))) == "TaskPatterns(patterns=('a*',))"


@pytest.mark.parametrize("patterns", [(), ("a",)])
def test_a_list_without_a_task_has_none(patterns: tuple[str, ...]) -> None:
    assert "b" not in TaskPatterns(patterns)
