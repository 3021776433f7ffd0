"""Which nodes of a trie to compute next, and what is known of its options so far.

A prefix's log-probability bounds those of all options behind it, so a large trie is walked from its
likeliest prefixes on until what is left cannot count. What a walk does depends on its own trie and
numbers alone, never on what else a step computes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence as Rows

from jumplora_server.core import Choices, Pass, Sequence

NEGLIGIBLE = 1e-6
"""What all options that are not looked at may weigh together, as a share of those that are, at the
temperature and at 1."""


class Walk:
    """One sequence's way through its trie. Log-probabilities are natural ones, and finite."""

    def __init__(self, choices: Choices, most: int) -> None:
        """`most`: nodes of a pass, at least those of the longest path."""
        self.trie = choices.trie
        # Below 1, what is negligible at 1 is more so.
        self._temperatures = {1.0, max(1.0, choices.temperature)}
        self._most = most
        self._front = {0: 0.0}  # those of them that are not computed themselves
        self.found: list[float | None] = [None] * self.trie.options
        self.nodes = self._next_nodes()
        """What to compute next, as `core.Pass` wants it; empty when the walk is over."""

    def take(self, logprobs: Rows[Rows[float]]) -> None:
        """Note what the edges of `nodes` are worth, then choose the next ones."""
        for node, values in zip(self.nodes, logprobs, strict=True):
            if node not in self._front:  # it was computed again, as part of a path
                continue
            before = self._front.pop(node)
            for edge, value in zip(self.trie.edges[node], values, strict=True):
                if edge.node < 0:
                    self.found[edge.option] = before + value
                else:
                    self._front[edge.node] = before + value
        self.nodes = self._next_nodes()

    def best(self) -> tuple[int, float]:
        """The likeliest option, of equals the first, and its log-probability."""
        known = [-math.inf if value is None else value for value in self.found]
        best = max(range(len(known)), key=known.__getitem__)
        return best, known[best]

    def _next_nodes(self) -> tuple[int, ...]:
        if not self._front:
            return ()
        if len(self.trie) <= self._most:
            return tuple(range(len(self.trie)))
        chosen: set[int] = set()
        for node in self._worthwhile():
            path = {*self.trie.path(node)}
            if len(chosen | path) > self._most:
                break
            chosen |= path
            if node:
                self._follow(node, chosen)
        return tuple(sorted(chosen))

    def _follow(self, node: int, chosen: set[int]) -> None:
        """Add what lies behind a node as far as there is one way only, if it fits: it will be
        wanted next, unless the node leads to nothing likely."""
        edges = self.trie.edges[node]
        while len(edges) == 1 and edges[0].node >= 0 and len(chosen) < self._most:
            chosen.add(edges[0].node)
            edges = self.trie.edges[edges[0].node]

    def _worthwhile(self) -> list[int]:
        """Nodes of the front, the likeliest first, without those at the end that are negligible as
        it seems now; none where all are, whatever they lead to."""
        front = sorted(self._front.items(), key=lambda pair: (-pair[1], pair[0]))
        known = [value for value in self.found if value is not None]
        highest = max([front[0][1], *known])  # exp of it alone may be 0
        count = max(
            self._counting(
                [self._most_behind(node, bound - highest, t) for node, bound in front],
                math.fsum(math.exp((value - highest) / t) for value in known),
            )
            for t in self._temperatures
        )
        return [node for node, _ in front[:count]]

    def _counting(self, weights: Rows[float], found: float) -> int:
        """How many of the front, from the first one on, may weigh enough beside what is found."""
        left = [*itertools.accumulate(reversed(weights))][::-1]  # of each and all after it
        if left[0] <= NEGLIGIBLE * found:
            return 0
        total = found + left[0]  # at most what there is in the end
        return max(1, sum(weight > NEGLIGIBLE * total for weight in left))

    def _most_behind(self, node: int, bound: float, temperature: float) -> float:
        """The most that the options behind a node can weigh: at a temperature over 1 when all are
        alike, by the concavity of p ** (1 / temperature)."""
        count = self.trie.behind[node]
        return math.pow(count, 1 - 1 / temperature) * math.exp(bound / temperature)


class Walks(dict[int, tuple[Sequence, Walk]]):
    """Those of the sequences that run and have choices, by id, who is next first.

    They take turns, so that a trie of many passes holds up no others.
    """

    def __init__(self, most: int) -> None:
        """`most`: nodes of all passes of a step."""
        super().__init__()
        self._most = most

    def begin(self, sequence: Sequence) -> None:
        """For a sequence that got its row."""
        assert sequence.sampling.choices is not None
        self[sequence.id] = (sequence, Walk(sequence.sampling.choices, self._most))

    def next_passes(self) -> tuple[Pass, ...]:
        """One for as many sequences as a step computes; at least one where there are any."""
        passes: list[Pass] = []
        left = self._most
        for sequence, walk in self.values():
            if len(walk.nodes) > left:  # not passed over: large ones would starve
                break
            left -= len(walk.nodes)
            passes.append(Pass(sequence, walk.trie, walk.nodes))
        for each in passes:
            self[each.sequence.id] = self.pop(each.sequence.id)
        return tuple(passes)

    def waiting(self, passes: Rows[Pass]) -> list[Sequence]:
        """Those that have none of a step's passes."""
        served = {each.sequence.id for each in passes}
        return [sequence for sequence, _ in self.values() if sequence.id not in served]
