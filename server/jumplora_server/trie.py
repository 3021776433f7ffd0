"""The options of a request as a tree of tokens. Knows no texts, tensors or probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Edge(NamedTuple):
    """A token that may follow a node: it leads to another node, or it ends an option."""

    token: int
    node: int  # -1: it ends `option`
    option: int  # -1: it leads on to `node`


@dataclass(frozen=True, slots=True)
class Trie:
    """Node 0 is the start of an answer, each other node one token behind its parent.

    A node is fed to the decoder, and its edges are read off what comes out. The last token of an
    option is an edge alone, for nothing follows it.
    """

    tokens: tuple[int, ...]  # [nodes] what is fed; -1 at node 0, which is fed the start token
    parents: tuple[int, ...]  # [nodes] lower than the node's own number; -1 of node 0
    edges: tuple[tuple[Edge, ...], ...]  # [nodes] at least one, in the order of the options
    behind: tuple[int, ...]  # [nodes] how many options each leads to
    ids: tuple[tuple[int, ...], ...]  # [options] all tokens of each

    @classmethod
    def of(cls, options: Sequence[Sequence[int]]) -> Trie:
        """Of each option's token ids, the token that ends an answer last.

        Raises ValueError for an option without tokens, and where one is the beginning of another
        (so where two are the same): with the end token, neither can be.
        """
        tokens, parents, edges, behind = [-1], [-1], [dict[int, Edge]()], [0]
        for option, ids in enumerate(options):
            if not ids:
                raise ValueError(f"option {option} has no tokens")
            node = 0
            behind[0] += 1
            for token in ids[:-1]:
                edge = edges[node].get(token)
                if edge is None:
                    edge = edges[node][token] = Edge(token, len(tokens), -1)
                    tokens.append(token)
                    parents.append(node)
                    edges.append({})
                    behind.append(0)
                if edge.node < 0:
                    raise ValueError(f"option {edge.option} is a beginning of option {option}")
                node = edge.node
                behind[node] += 1
            if ids[-1] in edges[node]:
                raise ValueError(f"option {option} is a beginning of an earlier one, or equals it")
            edges[node][ids[-1]] = Edge(ids[-1], -1, option)
        return cls(
            tuple(tokens),
            tuple(parents),
            tuple(tuple(found.values()) for found in edges),
            tuple(behind),
            tuple(map(tuple, options)),
        )

    @property
    def options(self) -> int:
        """How many there are."""
        return len(self.ids)

    def __len__(self) -> int:
        """How many nodes there are."""
        return len(self.tokens)

    def path(self, node: int) -> list[int]:
        """The nodes from node 0 to this one, both included."""
        found = [node]
        while found[-1]:
            found.append(self.parents[found[-1]])
        return found[::-1]
