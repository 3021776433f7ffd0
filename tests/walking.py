"""Random tries, a model of them, and what their options are worth, computed one by one."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence as Rows
from dataclasses import dataclass

from hypothesis import strategies as st

from jumplora_server.core import Choices
from jumplora_server.scheduler.walk import Walk
from jumplora_server.trie import Trie

END = 1
TOKENS = range(2, 8)

Ids = tuple[int, ...]


@st.composite
def options(draw: st.DrawFn, most: int = 40, longest: int = 12) -> list[Ids]:
    """Different options, each with the end token last."""
    texts = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=longest - 1)
    found = draw(st.lists(texts, min_size=1, max_size=most, unique_by=tuple))
    return [(*ids, END) for ids in found]


@dataclass(frozen=True)
class Model:
    """Gives each beginning of an answer a distribution of its own over the next token.

    With a `sharpness` of 0 all tokens are alike; at 20 one of them has nearly all.
    """

    seed: int
    sharpness: float

    def logprobs(self, beginning: Ids) -> dict[int, float]:
        """Of each token that may follow."""
        source = random.Random(repr((self.seed, beginning)))
        logits = {token: self.sharpness * source.random() for token in (END, *TOKENS)}
        highest = max(logits.values())
        total = math.log(math.fsum(math.exp(x - highest) for x in logits.values())) + highest
        return {token: logit - total for token, logit in logits.items()}

    def logprob(self, ids: Ids) -> float:
        """Of a whole option, its tokens added from the first one on."""
        total = 0.0
        for length, token in enumerate(ids):
            total += self.logprobs(ids[:length])[token]
        return total

    def compute(self, trie: Trie, nodes: Rows[int]) -> list[list[float]]:
        """What an engine says of the nodes of a pass."""
        found = []
        for node in nodes:
            known = self.logprobs(tuple(trie.tokens[each] for each in trie.path(node)[1:]))
            found.append([known[edge.token] for edge in trie.edges[node]])
        return found


def check_pass(trie: Trie, nodes: Rows[int], most: int) -> None:
    """What core.Pass promises the engine."""
    assert list(nodes) == sorted({*nodes})
    assert nodes[0] == 0
    assert len(nodes) <= most
    assert {trie.parents[node] for node in nodes} - {-1} <= {*nodes}


def walked(model: Model, choices: Choices, most: int) -> tuple[Walk, list[tuple[int, ...]]]:
    """A walk from its beginning to its end, and its passes."""
    walk = Walk(choices, most)
    passes = []
    while walk.nodes:
        check_pass(walk.trie, walk.nodes, most)
        passes.append(walk.nodes)
        walk.take(model.compute(walk.trie, walk.nodes))
        assert len(passes) <= len(walk.trie), "a pass without a new node"
    return walk, passes
