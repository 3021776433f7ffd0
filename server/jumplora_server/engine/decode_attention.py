"""How the tokens of a decode see those before them, and their prompts.

A token either continues a row of the target cache, or it is a node of a pass through a trie, whose
path is computed beside it. All else in a decode is the same for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from jumplora_server.engine.attention import attend_prompts, attend_rows
from jumplora_server.engine.cache import Caches, SourceCache
from jumplora_server.engine.passes import NodeGroup


class DecodeAttention(Protocol):
    """Both attentions of a decoder's blocks, for the tokens of one decode."""

    def own(self, layer: int, qkv: Tensor, table: str) -> Tensor:
        """Attend to the tokens before each one, and to itself: [n, 3 * inner] -> [n, inner].

        Args:
            table: the name of the block's position bias.
        """

    def source(self, layer: int, q: Tensor) -> Tensor:
        """Attend to each token's prompt: [n, inner] -> [n, inner]."""


@dataclass(frozen=True, slots=True)
class RowAttention:
    """One new token for each of the first R rows of the target cache."""

    caches: Caches
    biases: Mapping[str, Tensor]  # by table [R, heads, target], what does not count masked
    live: Tensor  # [n] the rows that really decode; only their caches are written
    positions: Tensor  # [n] of the new tokens of these
    places: slice | Tensor  # R source places
    source_mask: Tensor  # [R, 1, source]

    def own(self, layer: int, qkv: Tensor, table: str) -> Tensor:
        """As `DecodeAttention.own`; appends the new keys and values."""
        cache, rows = self.caches.target, qkv.shape[0]
        q, k, v = qkv.view(rows, 3, cache.k.shape[2], -1).unbind(1)  # each [R, heads, d_kv]
        cache.append(layer, self.live, self.positions, k[self.live], v[self.live])
        return attend_rows(q, cache.k[layer][:rows], cache.v[layer][:rows], self.biases[table])

    def source(self, layer: int, q: Tensor) -> Tensor:
        """As `DecodeAttention.source`."""
        cache = self.caches.source
        keys, values = cache.read(layer, self.places, self.source_mask.shape[-1])
        return attend_rows(q.view(len(q), cache.k.shape[2], -1), keys, values, self.source_mask)


@dataclass(frozen=True, slots=True)
class NodeAttention:
    """Nodes of passes; nothing is written to a cache.

    Each pass has calls of its own, whose shapes are those that it has alone: so it has the same
    bits beside others.
    """

    cache: SourceCache
    groups: Sequence[NodeGroup]
    biases: Mapping[str, Sequence[Tensor]]  # by table, each pass's [1, heads, n, n]

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
