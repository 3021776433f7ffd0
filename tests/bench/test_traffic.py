"""Arrivals, task mixes and texts: pure functions of a seed."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from jumplora_bench.tokenizer import make_tokenizer, random_text
from jumplora_bench.traffic import Mix, poisson_arrivals, zipf_weights


@pytest.mark.parametrize(
    ("count", "exponent", "expected"),
    [
        pytest.param(1, 1.0, [1.0], id="one task"),
        pytest.param(4, 0.0, [0.25, 0.25, 0.25, 0.25], id="exponent 0 is uniform"),
        pytest.param(3, 1.0, [6 / 11, 3 / 11, 2 / 11], id="harmonic"),
        pytest.param(2, 2.0, [0.8, 0.2], id="exponent 2"),
    ],
)
def test_zipf_weights(count: int, exponent: float, expected: list[float]) -> None:
    assert zipf_weights(count, exponent) == pytest.approx(expected)


def test_poisson_arrivals_have_the_rate_and_its_spread() -> None:
    arrivals = poisson_arrivals(50.0, 200.0, random.Random(1))
    gaps = [b - a for a, b in pairwise(arrivals)]
    assert min(gaps) > 0
    assert arrivals[0] > 0
    assert arrivals[-1] < 200.0
    assert len(arrivals) == pytest.approx(10_000, rel=0.03)  # three standard deviations
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert variance**0.5 == pytest.approx(mean, rel=0.05)  # exponential gaps: equal to the mean


def test_arrivals_of_a_seed_are_the_same() -> None:
    first = poisson_arrivals(3.0, 10.0, random.Random(7))
    assert first == poisson_arrivals(3.0, 10.0, random.Random(7))
    assert first != poisson_arrivals(3.0, 10.0, random.Random(8))


def test_questions_keep_their_arrivals_and_the_mix() -> None:
    mix = Mix(["often", "seldom"], 2.0, source=8)
    questions = mix.draw([0.1 * i for i in range(2000)], random.Random(3))
    assert [q.at for q in questions[:3]] == pytest.approx([0.0, 0.1, 0.2])
    assert Counter(q.task for q in questions)["often"] / 2000 == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("tokens", [2, 17, 128])
def test_a_text_has_the_tokens_that_were_asked_for(tokens: int) -> None:
    tokenizer = make_tokenizer(32128)
    text = random_text(tokens, random.Random(tokens))
    ids = tokenizer.encode(text).ids
    assert len(ids) == tokens
    assert ids[-1] == 1
    assert 2 not in ids  # nothing unknown
    assert tokenizer.get_vocab_size() == 32128
