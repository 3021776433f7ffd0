"""Scores against examples worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_adapters.training.scores import (
    all_scores,
    common_length,
    exact_match,
    rouge_l,
    token_f1,
)


@pytest.mark.parametrize(
    ("predicted", "expected", "score"),
    [
        ("Sports", "sports", 1.0),
        ("  World \n News ", "world news", 1.0),
        ("world", "world news", 0.0),
        ("", "", 1.0),
        ("sports.", "sports", 0.0),
    ],
)
def test_exact_match(predicted: str, expected: str, score: float) -> None:
    assert exact_match(predicted, expected) == score


@pytest.mark.parametrize(
    ("predicted", "expected", "score"),
    [
        ("a b c", "a b c", 1.0),
        ("a b", "a b c d", 2 * (1.0 * 0.5) / 1.5),  # precision 1, recall 1/2
        ("a a a", "a b", 2 * (1 / 3 * 1 / 2) / (1 / 3 + 1 / 2)),  # one a is shared, not three
        ("x", "y", 0.0),
        ("", "y", 0.0),
        ("", "", 1.0),
    ],
)
def test_token_f1(predicted: str, expected: str, score: float) -> None:
    assert token_f1(predicted, expected) == pytest.approx(score)


@pytest.mark.parametrize(
    ("predicted", "expected", "score"),
    [
        # The example of Lin (2004): "police ... the gunman" against "police killed the gunman".
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("The gunman!", "the gunman", 1.0),
        ("a b c", "c", 0.5),  # precision 1/3, recall 1
        ("", "c", 0.0),
        ("...", "!", 1.0),  # no word on either side
    ],
)
def test_rouge_l(predicted: str, expected: str, score: float) -> None:
    assert rouge_l(predicted, expected) == pytest.approx(score)


def test_common_length_skips_without_reordering() -> None:
    assert common_length("abcbdab", "bdcaba") == 4


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_common_length_equals_the_recursive_definition(first: str, second: str) -> None:
    def longest(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return 0
        if first[i - 1] == second[j - 1]:
            return longest(i - 1, j - 1) + 1
        return max(longest(i - 1, j), longest(i, j - 1))

    assert common_length(first, second) == longest(len(first), len(second))


@given(st.text(), st.text())
def test_scores_are_symmetric_and_between_zero_and_one(first: str, second: str) -> None:
    for measure in (exact_match, token_f1, rouge_l):
        assert 0.0 <= measure(first, second) <= 1.0
        assert measure(first, second) == pytest.approx(measure(second, first))
        assert measure(first, first) == 1.0


def test_all_scores_are_means() -> None:
    scores = all_scores(["a", "b c", "x"], ["A", "b d", "y"])
    assert scores == pytest.approx({"exact_match": 1 / 3, "f1": 0.5, "rouge_l": 0.5})
