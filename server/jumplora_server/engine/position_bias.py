"""T5's relative position bias: a number for each head and bucket of distances, added to scores.

Source: Raffel et al., arXiv 1910.10683, section 2.1.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from jumplora_adapters.architecture import Architecture

Direction = Literal["both", "past"]


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
