"""Options as a tree of tokens, against the options themselves."""

from __future__ import annotations

import pytest
from hypothesis import given

from jumplora_server.trie import Trie
from walking import END, Ids, options


@given(options())
def test_a_trie_has_its_options_and_no_others(offered: list[Ids]) -> None:
    trie = Trie.of(offered)
    found = {}
    for node, edges in enumerate(trie.edges):
        beginning = tuple(trie.tokens[each] for each in trie.path(node)[1:])
        assert edges, "a node that leads nowhere"
        assert trie.behind[node] == sum(ids[: len(beginning)] == beginning for ids in offered)
        for edge in edges:
            assert (edge.node < 0) == (edge.token == END)
            if edge.node < 0:
                found[edge.option] = (*beginning, edge.token)
            else:
                assert (trie.parents[edge.node], trie.tokens[edge.node]) == (node, edge.token)
                assert edge.node > node
    assert found == dict(enumerate(offered))
    assert (trie.ids, trie.options) == (tuple(offered), len(offered))
    beginnings = {ids[:length] for ids in offered for length in range(len(ids))}
    assert len(trie) == len(beginnings), "one node for each beginning"


@pytest.mark.parametrize(
    ("offered", "words"),
    [
        ([()], "option 0 has no tokens"),
        ([(5, END), (5, END)], "option 1 is a beginning of an earlier one, or equals it"),
        ([(5, 6), (5,)], "option 1 is a beginning"),
        ([(5,), (5, 6)], "option 0 is a beginning of option 1"),
    ],
)
def test_what_is_no_trie(offered: list[Ids], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Trie.of(offered)


def test_a_text_may_be_the_beginning_of_another() -> None:
    trie = Trie.of([(5, END), (5, 6, END)])
    assert len(trie) == 3
    assert [edge.token for edge in trie.edges[1]] == [END, 6]
