"""Walks through tries against all options one by one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jumplora_server.core import Choices
from jumplora_server.scheduler.walk import NEGLIGIBLE, Walk
from jumplora_server.trie import Trie
from walking import END, Ids, Model, options, walked

models = st.builds(Model, st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 5.0, 20.0, 60.0]))
temperatures = st.sampled_from([0.05, 0.5, 1.0, 1.3, 4.0, 20.0])


@given(options(), models, temperatures, st.integers(12, 40))
@settings(deadline=None, max_examples=300)
def test_a_walk_finds_what_counts(
    offered: list[Ids], model: Model, temperature: float, most: int
) -> None:
    walk, passes = walked(model, Choices(Trie.of(offered), temperature), most)
    exact = [model.logprob(ids) for ids in offered]
    highest = max(exact)
    for found, value in zip(walk.found, exact, strict=True):
        assert found is None or found == value, "not a bit differs"
    for t in (1.0, temperature):
        weights = [math.exp((value - highest) / t) for value in exact]
        pairs = [*zip(walk.found, weights, strict=True)]
        looked_at = math.fsum(weight for found, weight in pairs if found is not None)
        left = math.fsum(weight for found, weight in pairs if found is None)
        assert left <= NEGLIGIBLE * looked_at * (1 + 1e-9)
    assert walk.best() == (exact.index(highest), highest)
    assert walked(model, Choices(Trie.of(offered), temperature), most)[1] == passes


@given(options(most=8, longest=6), models)
def test_a_small_trie_is_one_pass(offered: list[Ids], model: Model) -> None:
    trie = Trie.of(offered)
    walk, passes = walked(model, Choices(trie), most=64)
    assert passes == [tuple(range(len(trie)))]
    assert None not in walk.found


def test_a_large_trie_is_walked_in_part() -> None:
    """A model that is sure of itself: most of the options are never looked at."""
    offered = [(2 + a, 2 + b, 2 + c, END) for a in range(6) for b in range(6) for c in range(6)]
    trie = Trie.of(offered)
    walk, passes = walked(Model(0, 60.0), Choices(trie), most=32)
    assert len(trie) == 259
    assert sum(map(len, passes)) < 100
    assert walk.found.count(None) > 150


def test_a_chain_behind_a_likely_node_takes_one_pass() -> None:
    offered = [(a, *(3,) * 30, END) for a in (2, 4, 5)]
    trie = Trie.of(offered)
    walk, passes = walked(Model(3, 0.0), Choices(trie), most=40)
    assert len(passes) == 4  # the start, then an option each: they are alike
    assert None not in walk.found


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_options_of_which_exp_is_nothing(temperature: float) -> None:
    """Long options that the model finds absurd: all of their probabilities are 0 as floats."""
    trie = Trie.of([(2, *(3,) * 40, END), (4, *(3,) * 40, END)])
    walk = Walk(Choices(trie, temperature), most=50)
    assert walk.nodes == (0,)
    while walk.nodes:
        walk.take([[-30.0 - edge.token for edge in trie.edges[node]] for node in walk.nodes])
    best, logprob = walk.best()
    assert (best, math.exp(logprob)) == (0, 0.0)
    assert logprob == walk.found[0]


def test_of_equals_the_first_is_best() -> None:
    trie = Trie.of([(3, END), (2, END)])
    walk = Walk(Choices(trie), most=8)
    walk.take([[-1.0 for _ in edges] for edges in trie.edges])
    assert walk.best() == (0, -2.0)
