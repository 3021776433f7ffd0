"""What the rows of a decode step are fed: those of sequences, and the nodes of passes."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Rows
from typing import NamedTuple

from jumplora_server.core import Encoding, Pass


class Fed(NamedTuple):
    """One row of a step."""

    encoding: Encoding
    token: int
    position: int
    row: int  # of the target caches; -1: a node, which has none
    sampling: int | None  # address of its structure; None: the highest logit is all that is wanted
    parent: int = -1  # of a node the one before it on its path, as a number of the step's rows
    edges: tuple[int, ...] = ()  # tokens whose log-probabilities are read off


def feed_nodes(passes: Rows[Pass], first: int, start_token_id: int) -> Iterator[Fed]:
    """The nodes of all passes, one pass after the other; `first` is the number of the first row."""
    for each in passes:
        trie, encoding = each.trie, each.sequence.encoding
        rows = {node: number for number, node in enumerate(each.nodes, first)}
        depths = dict.fromkeys(each.nodes, 0)
        for node in each.nodes:
            parent = trie.parents[node]
            if node:
                depths[node] = depths[parent] + 1
            yield Fed(
                encoding,
                trie.tokens[node] if node else start_token_id,
                depths[node],
                row=-1,
                sampling=None,
                parent=rows.get(parent, -1),
                edges=tuple([edge.token for edge in trie.edges[node]]),
            )
        first += len(each.nodes)
