"""Attention in torch: inside prompts that are packed side by side, and of one query a row.

Prompts are packed without padding for every linear; only attention pads, within groups of like
length. T5's relative position bias is a number for each head and bucket of distances, added to the
scores (Raffel et al., arXiv 1910.10683, section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from jumplora_adapters.architecture import Architecture
from jumplora_server.engine.cache import Caches, round_up
from jumplora_server.engine.sampling import to_device

Direction = Literal["both", "past"]

# Numbers of a head are padded to a multiple of this. torch computes products of under 400 numbers
# by itself, and leaves larger ones to MKL, which sums in another order: LENGTH_STEP keys of so many
# numbers are always large. And on some processors, an AMD EPYC among them, MKL's sums depend on
# where in a vector a row begins, as heads of 17 numbers showed.
WIDTH_STEP = 8


@dataclass(frozen=True, slots=True)
class LengthGroup:
    """Prompts whose lengths round up to the same L, and where their tokens lie in the pack."""

    length: int  # L
    places: Tensor  # [b] in the source caches
    index: Tensor  # [b, L] positions in the packed tokens; padding repeats a prompt's first token
    packed: Tensor  # [m] positions of the packed tokens, without padding
    padded: Tensor  # [m] the same in [b * L]
    outside: Tensor | None  # [b, L] marks padding; None without any


def group_prompts(
    spans: Sequence[tuple[int, int]], places: Sequence[int], device: torch.device
) -> list[LengthGroup]:
    """Group prompts by rounded length.

    Args:
        spans: [start, stop) of each prompt in the packed tokens.
        places: the source place of each prompt.
    """
    by_length: dict[int, list[int]] = {}
    for i, (start, stop) in enumerate(spans):
        by_length.setdefault(round_up(stop - start), []).append(i)
    return [
        _group(length, [spans[i] for i in members], [places[i] for i in members], device)
        for length, members in sorted(by_length.items())
    ]


def _group(
    length: int, spans: list[tuple[int, int]], places: list[int], device: torch.device
) -> LengthGroup:
    # Built on the host: asking the device which tokens are valid would wait for it.
    starts = torch.tensor([span[0] for span in spans])
    sizes = torch.tensor([span[1] - span[0] for span in spans])
    steps = torch.arange(length)
    valid = steps < sizes[:, None]  # [b, L]
    index = starts[:, None] + steps * valid
    return LengthGroup(
        length=length,
        places=to_device(torch.tensor(places), device),
        index=to_device(index, device),
        packed=to_device(index[valid], device),
        padded=to_device(valid.view(-1).nonzero()[:, 0], device),
        outside=None if bool(valid.all()) else to_device(~valid, device),
    )


def position_buckets(distance: Tensor, config: Architecture, *, sees: Direction) -> Tensor:
    """The bucket of a relative position (key minus query): exact when near, logarithmic when far.

    "both" (encoder) spends half of the buckets on keys after the query; "past" (decoder) puts all
    of those into bucket 0.
    """
    num_buckets = config.relative_attention_num_buckets
    offset = torch.zeros_like(distance)
    if sees == "both":
        num_buckets //= 2
        offset = (distance > 0) * num_buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp_min(0)
    exact = num_buckets // 2
    ratio = torch.log(distance.clamp_min(1).float() / exact) / math.log(
        config.relative_attention_max_distance / exact
    )
    far = (exact + (ratio * (num_buckets - exact)).long()).clamp_max(num_buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


def prompt_bias(table: Tensor, length: int, config: Architecture) -> Tensor:
    """Of a prompt's tokens among each other: table [buckets, heads] -> [heads, length, length]."""
    steps = torch.arange(length, device=table.device)
    distance = steps[None, :] - steps[:, None]  # key minus query
    return table[position_buckets(distance, config, sees="both")].permute(2, 0, 1).contiguous()


def causal_bias(table: Tensor, positions: Tensor, length: int, config: Architecture) -> Tensor:
    """Of one query a row over keys 0 to length - 1, later ones masked out.

    table [buckets, heads], positions [R] -> [R, heads, length]. Computed each step: a table of all
    positions would take heads * length ** 2 numbers.
    """
    distance = torch.arange(length, device=table.device) - positions[:, None]  # key minus query
    bias = table[position_buckets(distance, config, sees="past")].permute(0, 2, 1)
    return bias.masked_fill((distance > 0)[:, None, :], torch.finfo(table.dtype).min)


def path_bias(table: Tensor, depths: Tensor, hidden: Tensor, config: Architecture) -> Tensor:
    """Of a pass's nodes among each other: table [buckets, heads] -> [1, heads, n, n].

    depths [n] are the nodes' positions; hidden [n, n] marks the keys that a node does not see.
    """
    distance = depths[None, :] - depths[:, None]  # key minus query
    bias = table[position_buckets(distance, config, sees="past")].permute(2, 0, 1)[None]
    return bias.contiguous().masked_fill_(hidden, torch.finfo(table.dtype).min)


def masked_bias(bias: Tensor, group: LengthGroup) -> Tensor:
    """A group's position bias [heads, L, L] with its padding masked: [b or 1, heads, L, L]."""
    if group.outside is None:
        return bias[None]
    lowest = torch.finfo(bias.dtype).min
    return bias[None].masked_fill(group.outside[:, None, None, :], lowest)


def attend_prompts(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Each prompt's attention to itself: q, k, v [b, heads, L, d_kv], bias [b or 1, heads, L, L].

    On a CPU one call a prompt, so that a prompt is cut among threads as it is alone: with AVX2,
    MKL's sums in this kernel depend on the thread that computes them.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
    biases = bias.expand(q.shape[0], -1, -1, -1)
    return torch.cat(
        [
            F.scaled_dot_product_attention(
                q[i : i + 1], k[i : i + 1], v[i : i + 1], attn_mask=biases[i : i + 1], scale=1.0
            )
            for i in range(q.shape[0])
        ]
    )


def attend_rows(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """One query a row over its keys: [R, heads * d_kv].

    Args:
        q: [R, heads, d_kv].
        keys, values: [R, heads, length, d_kv], of which the first L count.
        bias: [R, 1 or heads, L], the dtype's lowest number where a key does not count. Such a key
            may hold anything: a sequence that ended well can leave infinite ones behind.
    """
    rows, heads, width = q.shape
    missing = -width % WIDTH_STEP
    if missing:
        q, keys, values = (F.pad(part, (0, missing)) for part in (q, keys, values))
        read = attend_rows(q, keys, values, bias).view(rows, heads, width + missing)
        return read[:, :, :width].reshape(rows, heads * width)
    length = bias.shape[-1]
    # Views with a uniform batch stride: nothing of the cache is copied.
    keys = keys.view(rows * heads, -1, width)[:, :length]
    values = values.view(rows * heads, -1, width)[:, :length]
    scores = torch.bmm(q.reshape(rows * heads, 1, width), keys.transpose(1, 2))
    lowest = torch.finfo(bias.dtype).min
    scores = (scores.view(rows, heads, length) + bias).masked_fill_(bias == lowest, lowest)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
    read = torch.bmm(weights.to(q.dtype).view(rows * heads, 1, length), values)
    return read.view(rows, heads * width)


class DecodeAttention(Protocol):
    """Both attentions of a decoder's blocks, for the tokens of one decode.

    A token either continues a row of the target cache, or it is a node of a pass through a trie,
    whose path is computed beside it. All else in a decode is the same for both.
    """

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
