"""Passes through tries as rows of one decode: what is fed, what a node sees, what is read off."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from jumplora_server.core import Pass
from jumplora_server.engine.attention import attend_prompts
from jumplora_server.engine.cache import SourceCache
from jumplora_server.engine.sampling import to_device


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """One pass's nodes: neighbours among a decode's rows, which see each other and one prompt."""

    start: int  # the first node's row
    stop: int  # the row after the last one's
    place: int  # of the prompt, in the source caches
    prompt: int  # its tokens
    depths: Tensor  # [n] int64, 0 of node 0
    hidden: Tensor  # [n, n] marks the nodes that are not on a node's path


@dataclass(frozen=True, slots=True)
class NodeAttention:
    """Nodes of passes; nothing is written to a cache.

    Each pass has calls of its own, whose shapes are those that it has alone: so it has the same
    bits beside others.
    """

    cache: SourceCache
    groups: Rows[NodeGroup]
    biases: Mapping[str, Rows[Tensor]]  # by table, each pass's [1, heads, n, n]

    def own(self, layer: int, qkv: Tensor, table: str) -> Tensor:
        """As `DecodeAttention.own`; zeros for rows of no pass."""
        out = torch.zeros_like(qkv[:, : qkv.shape[1] // 3])
        for group, bias in zip(self.groups, self.biases[table], strict=True):
            q, k, v = self._heads(qkv, group, parts=3)
            out[group.start : group.stop] = _side_by_side(attend_prompts(q, k, v, bias))
        return out

    def source(self, layer: int, q: Tensor) -> Tensor:
        """As `DecodeAttention.source`; zeros for rows of no pass."""
        out = torch.zeros_like(q)
        for group in self.groups:
            (own,) = self._heads(q, group, parts=1)
            place = slice(group.place, group.place + 1)
            keys, values = self.cache.read(layer, place, group.prompt)
            read = F.scaled_dot_product_attention(own, keys, values, scale=1.0)
            out[group.start : group.stop] = _side_by_side(read)
        return out

    def _heads(self, x: Tensor, group: NodeGroup, *, parts: int) -> tuple[Tensor, ...]:
        """A pass's rows of x [.., parts * inner] as parts tensors [1, heads, n, d_kv]."""
        rows = x[group.start : group.stop]
        split = rows.view(1, len(rows), parts, self.cache.k.shape[2], -1)
        return split.permute(2, 0, 3, 1, 4).contiguous().unbind(0)


def _side_by_side(read: Tensor) -> Tensor:
    """[1, heads, n, d_kv] -> [n, heads * d_kv]."""
    return read[0].transpose(0, 1).flatten(1)


def group_nodes(passes: Rows[Pass], device: torch.device) -> list[NodeGroup]:
    """The passes one after another, each node a row."""
    groups: list[NodeGroup] = []
    for each in passes:
        start = groups[-1].stop if groups else 0
        depths, hidden = _paths(each)
        groups.append(
            NodeGroup(
                start=start,
                stop=start + len(each.nodes),
                place=each.sequence.encoding.place,
                prompt=len(each.sequence.encoding.prompt),
                depths=to_device(depths, device),
                hidden=to_device(hidden, device),
            )
        )
    return groups


def _paths(each: Pass) -> tuple[Tensor, Tensor]:
    """The depths and what is hidden, as NodeGroup has them."""
    count = len(each.nodes)
    at = {node: i for i, node in enumerate(each.nodes)}
    depths, seen = [0] * count, torch.eye(count, dtype=torch.bool)
    for i, node in enumerate(each.nodes):
        if node:
            parent = at[each.trie.parents[node]]  # whose row is filled by now
            depths[i] = depths[parent] + 1
            seen[i] |= seen[parent]
    return torch.tensor(depths), ~seen


def fed_tokens(passes: Rows[Pass], start_token: int) -> list[int]:
    """The token of each node's row."""
    return [
        each.trie.tokens[node] if node else start_token for each in passes for node in each.nodes
    ]


def read_edges(logits: Tensor, passes: Rows[Pass]) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """The log-probabilities of each pass's edges, as `StepOutput.passes` has them.

    Sums are float64 and what comes of them is rounded to float32, because the order of a sum may
    depend on the other rows.

    Args:
        logits: [at least all nodes, vocabulary] float32.
    """
    edges = [each.trie.edges[node] for each in passes for node in each.nodes]
    pairs = [(row, edge.token) for row, found in enumerate(edges) for edge in found]
    rows, tokens = to_device(torch.tensor(pairs), logits.device).unbind(1)
    logits = logits[: len(edges)]
    is_sound = logits.isfinite().all(dim=-1)
    wide = logits.double()
    values = wide[rows, tokens] - wide.logsumexp(dim=-1)[rows]
    flat = iter(values.float().masked_fill_(~is_sound[rows], math.nan).tolist())
    return tuple(_of_pass(each, flat) for each in passes)


def _of_pass(each: Pass, flat: Iterator[float]) -> tuple[tuple[float, ...], ...]:
    """The next numbers of `flat`; nothing where one is not finite."""
    edges = (each.trie.edges[node] for node in each.nodes)
    found = tuple(tuple(itertools.islice(flat, len(own))) for own in edges)
    return found if all(math.isfinite(x) for values in found for x in values) else ()
