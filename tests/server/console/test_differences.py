"""What the console marks where two answers differ."""

from __future__ import annotations

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from console_in_node import Console

TOKENS = st.lists(st.sampled_from("abc"), max_size=9)


def longest_common(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """The length of a longest common subsequence, by its definition."""

    @cache
    def longest(i: int, j: int) -> int:
        if i == len(first) or j == len(second):
            return 0
        if first[i] == second[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    return longest(0, 0)


@settings(deadline=None, max_examples=200)
@given(first=TOKENS, second=TOKENS)
def test_what_is_not_marked_is_a_longest_common_subsequence(
    console: Console, first: list[str], second: list[str]
) -> None:
    marked = console.call("differences.js", "differingTokens", first, second)
    kept = [
        [token for index, token in enumerate(tokens) if index not in indices]
        for tokens, indices in zip((first, second), marked, strict=True)
    ]
    assert kept[0] == kept[1]
    assert len(kept[0]) == longest_common(tuple(first), tuple(second))


def test_large_answers_are_compared_from_both_ends(console: Console) -> None:
    middle = ["x"] * 1500, ["y"] * 1500
    first, second = (["a", *tokens, "z"] for tokens in middle)
    marked = console.call("differences.js", "differingTokens", first, second)
    assert marked == [list(range(1, 1501))] * 2


def test_options_by_the_size_of_their_difference(console: Console) -> None:
    first = [{"text": "a", "probability": 0.5}, {"text": "b", "probability": 0.5}]
    second = [{"text": "b", "probability": 0.7}, {"text": "c", "probability": 0.3}]
    assert console.call("differences.js", "optionDifferences", first, second) == [
        {"text": "b", "first": 0.5, "second": 0.7},
        {"text": "a", "first": 0.5, "second": None},
        {"text": "c", "first": None, "second": 0.3},
    ]
