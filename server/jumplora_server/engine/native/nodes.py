"""The nodes of passes as rows of a decode step: what each is fed, sees and leads to."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

from jumplora_server.core import Encoding, Pass
from jumplora_server.engine.native.work import Lineage
from jumplora_server.engine.passes import fed_tokens


@dataclass(frozen=True, slots=True)
class Nodes:
    """A row for each node, pass after pass, behind the rows of sequences."""

    passes: Rows[Pass]
    first: int  # the number of the first node's row
    tokens: list[int]
    encodings: list[Encoding]
    lineages: list[Lineage]
    paths: list[list[int]]  # the rows on the way from the start of an answer, the node's own last
    edges: list[tuple[int, ...]]  # tokens

    @classmethod
    def of(
        cls, passes: Rows[Pass], lineages: Rows[Lineage], *, first: int, start_token_id: int
    ) -> Nodes:
        """`first` is how many sequences stand before them."""
        paths: list[list[int]] = []
        for each in passes:
            of_node: dict[int, list[int]] = {}
            for row, node in enumerate(each.nodes, first + len(paths)):
                before = of_node[each.trie.parents[node]] if node else []
                of_node[node] = [*before, row]
            paths.extend(of_node.values())
        counts = [len(each.nodes) for each in passes]
        return cls(
            passes,
            first,
            fed_tokens(passes, start_token_id),
            [
                each.sequence.encoding
                for each, n in zip(passes, counts, strict=True)
                for _ in range(n)
            ],
            [lineage for lineage, n in zip(lineages, counts, strict=True) for _ in range(n)],
            paths,
            [
                tuple(edge.token for edge in each.trie.edges[node])
                for each in passes
                for node in each.nodes
            ],
        )

    def arrays(self, order: Rows[int], places: Rows[int]) -> NodeArrays:
        """For the kernels: `order` has the numbers of the rows as they are computed, `places`
        where each is."""
        paths_at: list[int] = []
        paths: list[int] = []
        edges_at = [0]
        edges: list[int] = []
        for number in order:
            node = number - self.first
            paths_at.append(-1 if node < 0 else len(paths))
            if node >= 0:
                paths.extend(places[row] for row in self.paths[node])
                edges.extend(self.edges[node])
            edges_at.append(len(edges))
        return NodeArrays(
            (ctypes.c_int64 * len(paths_at))(*paths_at),
            (ctypes.c_int64 * len(paths))(*paths),
            (ctypes.c_int64 * len(edges_at))(*edges_at),
            (ctypes.c_int32 * len(edges))(*edges),
            (ctypes.c_double * len(edges))(),
        )

    def read(
        self, arrays: NodeArrays, places: Rows[int]
    ) -> tuple[tuple[tuple[float, ...], ...], ...]:
        """What the kernels found, as `StepOutput.passes` has it."""
        at, flat = arrays.edges_at[:], arrays.logprobs[:]
        found = [
            tuple(flat[at[place] : at[place + 1]]) for place in places[self.first :]
        ]  # by node
        rows = iter(found)
        passes = [tuple(itertools.islice(rows, len(each.nodes))) for each in self.passes]
        return tuple(
            each if all(math.isfinite(x) for values in each for x in values) else ()
            for each in passes
        )


@dataclass(frozen=True, slots=True)
class NodeArrays:
    """The arrays that layout.Step points to, in the order of its fields."""

    paths_at: ctypes.Array[ctypes.c_int64]
    paths: ctypes.Array[ctypes.c_int64]
    edges_at: ctypes.Array[ctypes.c_int64]
    edges: ctypes.Array[ctypes.c_int32]
    logprobs: ctypes.Array[ctypes.c_double]

    @property
    def fields(self) -> tuple[ctypes.Array[Any], ...]:
        """All of them."""
        return (self.paths_at, self.paths, self.edges_at, self.edges, self.logprobs)
