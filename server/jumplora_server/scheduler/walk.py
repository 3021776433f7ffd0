"""Which nodes of a trie to compute next, and what is known of its options so far.

A prefix's log-probability bounds those of all options behind it, so a large trie is walked from its
likeliest prefixes on until what is left cannot count. What a walk does depends on its own trie and
numbers alone, never on what else a step computes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence as Rows

from jumplora_server.core import Choices

NEGLIGIBLE = 1e-6
"""What all options that are not looked at may weigh together, as a share of those that are: an
answer's probabilities are shown with six digits."""


class Walk:
    """One sequence's way through its trie. Log-probabilities are natural ones."""

    def __init__(self, choices: Choices, most: int) -> None:
        """`most`: nodes of a pass, at least those of the longest path."""
        self._trie = choices.trie
        self._temperature = max(1.0, choices.temperature)
        self._most = most
        self._leads_to = _options_behind(choices.trie.parents, choices.trie.edges)
        self._reached: list[float | None] = [None] * len(choices.trie)  # by node
        self._reached[0] = 0.0
        self._is_computed = [False] * len(choices.trie)
        self.found: list[float | None] = [None] * choices.trie.options

    def next_nodes(self) -> tuple[int, ...]:
        """What to compute next, as `core.Pass` wants it; nothing where the walk is over."""
        if len(self._trie) <= self._most:
            return () if self._is_computed[0] else tuple(range(len(self._trie)))
        chosen: set[int] = set()
        for node in self._worthwhile():
            path = {*self._trie.path(node)}
            if len(chosen | path) > self._most:
                break
            chosen |= path
        if chosen - {0} and len(chosen) < self._most:
            self._add_what_follows(chosen)
        return tuple(sorted(chosen))

    def take(self, nodes: Rows[int], logprobs: Rows[Rows[float]]) -> None:
        """Note what the edges of some nodes are worth."""
        for node, values in zip(nodes, logprobs, strict=True):
            before = self._reached[node]
            assert before is not None, "a parent is computed with its children, or before them"
            self._is_computed[node] = True
            for edge, value in zip(self._trie.edges[node], values, strict=True):
                if edge.node < 0:
                    self.found[edge.option] = before + value
                else:
                    self._reached[edge.node] = before + value

    def best(self) -> int:
        """The likeliest option, of equals the first."""
        known = [-math.inf if value is None else value for value in self.found]
        return max(range(len(known)), key=known.__getitem__)

    def tokens_of(self, option: int) -> list[int]:
        """An option's tokens, the last one included."""
        for node, edges in enumerate(self._trie.edges):
            for edge in edges:
                if edge.option == option:
                    path = [self._trie.tokens[each] for each in self._trie.path(node)[1:]]
                    return [*path, edge.token]
        raise IndexError(f"there is no option {option}")

    def _worthwhile(self) -> list[int]:
        """Nodes that are reached and not computed, the likeliest first, without those at the end
        that are negligible as it seems now; none where all are, whatever they lead to."""
        front = [
            (bound, node)
            for node, bound in enumerate(self._reached)
            if bound is not None and not self._is_computed[node]
        ]
        front.sort(key=lambda pair: (-pair[0], pair[1]))
        count = max(self._counting(front, temperature) for temperature in (1.0, self._temperature))
        return [node for _, node in front[:count]]

    def _counting(self, front: Rows[tuple[float, int]], temperature: float) -> int:
        """How many of `front`, from the first one on, weigh enough at this temperature."""
        found = math.fsum(math.exp(x / temperature) for x in self.found if x is not None)
        weights = [self._most_behind(node, bound, temperature) for bound, node in front]
        left = [*itertools.accumulate(reversed(weights))][::-1]  # of each and all after it
        if not left or left[0] <= NEGLIGIBLE * found:
            return 0
        total = found + left[0]  # at most what there is in the end
        return max(1, sum(weight > NEGLIGIBLE * total for weight in left))

    def _most_behind(self, node: int, bound: float, temperature: float) -> float:
        """The most that the options behind a node can weigh: at a temperature over 1 when all are
        alike, by the concavity of p ** (1 / temperature)."""
        count = self._leads_to[node]
        return math.pow(count, 1 - 1 / temperature) * math.exp(bound / temperature)

    def _add_what_follows(self, chosen: set[int]) -> None:
        """Fill a pass up with what lies behind its nodes, which is likely to be wanted next."""
        for node in range(1, len(self._trie)):
            if len(chosen) >= self._most:
                return
            parent = self._trie.parents[node]
            if parent and parent in chosen and not self._is_computed[parent]:
                chosen.add(node)


def _options_behind(parents: Rows[int], edges: Rows[Rows[object]]) -> list[int]:
    """How many options each node leads to."""
    behind = [len(each) for each in edges]
    for node in range(len(parents) - 1, 0, -1):
        behind[parents[node]] += behind[node] - 1  # the edge that leads here ends nothing
    return behind
