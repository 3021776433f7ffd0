"""The attention caches: places that are written once and read by many rows, and rows that grow.

A prompt's keys and values lie in one source place, which all of its sequences read; a sequence's
own ones lie in its row. Both stay where they are: nothing is gathered or sorted from step to step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jumplora_adapters.architecture import Architecture
from jumplora_server.core import EngineLimits, RowCopy
from jumplora_server.engine.memory import lazy_zeros
from jumplora_server.engine.sampling import to_device

# Attention runs over lengths rounded up to this. With it, a row's softmax and its sum over values
# have the same bits whatever longer rows stand beside it (tests/server/engine/test_attention.py):
# products of fewer keys have another order of sums (attention.WIDTH_STEP).
LENGTH_STEP = 64


def round_up(length: int) -> int:
    """The next multiple of LENGTH_STEP."""
    return -(-length // LENGTH_STEP) * LENGTH_STEP


class SourceCache:
    """Cross-attention's keys and values, [layers, places, heads, source, d_kv] each.

    On a CPU pages cost memory once a place has used them.
    """

    def __init__(
        self,
        config: Architecture,
        *,
        places: int,
        length: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.length = round_up(length)
        shape = (config.num_decoder_layers, places, config.num_heads, self.length, config.d_kv)
        self.k, self.v = _zeros(shape, dtype, device), _zeros(shape, dtype, device)
        # Additive mask: 0 inside a prompt, the dtype's lowest number outside it (not -inf: a free
        # place that is computed along must not make NaN).
        self._lowest = torch.finfo(dtype).min
        self.mask = torch.full((places, self.length), self._lowest, dtype=dtype, device=device)
        self.lengths = torch.zeros(places, dtype=torch.int64, device=device)

    def open(self, places: Sequence[int], lengths: Sequence[int]) -> None:
        """Make places ready for prompts of that many tokens."""
        device = self.mask.device
        tokens = torch.tensor(lengths, dtype=torch.int64)
        outside = torch.arange(self.length) >= tokens[:, None]
        mask = torch.zeros(outside.shape, dtype=self.mask.dtype)
        index = to_device(torch.tensor(places, dtype=torch.int64), device)
        self.mask[index] = to_device(mask.masked_fill_(outside, self._lowest), device)
        self.lengths[index] = to_device(tokens, device)

    def write(self, layer: int, places: Tensor, k: Tensor, v: Tensor) -> None:
        """Store a layer's keys and values of some prompts, each [b, heads, length, d_kv]."""
        length = k.shape[2]
        self.k[layer][places, :, :length] = k
        self.v[layer][places, :, :length] = v

    def read(self, layer: int, places: slice | Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The first keys and values of a layer [rows, heads, length, d_kv] at the rows' places.

        A slice is a view of the cache; places in any order are copied.
        """
        return self.k[layer][:, :, :length][places], self.v[layer][:, :, :length][places]

    def clear(self, place: int) -> None:
        """Forget a place's numbers: behind a mask, a value of NaN times 0 would show."""
        for cache in (self.k, self.v):
            cache[:, place].zero_()


class TargetCache:
    """Self-attention's keys and values, [layers, rows, heads, target, d_kv] each.

    On a CPU pages cost memory once a row has used them.
    """

    def __init__(
        self,
        config: Architecture,
        *,
        rows: int,
        length: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.rows = rows
        self.length = round_up(length)
        shape = (config.num_decoder_layers, rows, config.num_heads, self.length, config.d_kv)
        self.k, self.v = _zeros(shape, dtype, device), _zeros(shape, dtype, device)

    def append(self, layer: int, rows: Tensor, positions: Tensor, k: Tensor, v: Tensor) -> None:
        """Store one step's keys and values, each [n, heads, d_kv], at each row's position."""
        self.k[layer][rows, :, positions] = k
        self.v[layer][rows, :, positions] = v

    def copy(self, copies: Sequence[RowCopy]) -> None:
        """Give rows the first tokens of others."""
        for cache in (self.k, self.v):
            for copy in copies:
                tokens = slice(copy.same, copy.tokens)
                cache[:, copy.row, :, tokens] = cache[:, copy.source, :, tokens]

    def clear(self, row: int) -> None:
        """Forget a row's numbers: behind a mask, a value of NaN times 0 would show."""
        for cache in (self.k, self.v):
            cache[:, row].zero_()


@dataclass(frozen=True, slots=True)
class Caches:
    """What a model writes in an encode, and reads and writes in a decode."""

    source: SourceCache
    target: TargetCache

    @classmethod
    def of(
        cls,
        config: Architecture,
        limits: EngineLimits,
        *,
        min_rows: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Caches:
        """As many as the limits say, and at least `min_rows`."""
        rows = max(limits.max_rows, min_rows)
        return cls(
            SourceCache(
                config, places=rows, length=limits.max_source_tokens, dtype=dtype, device=device
            ),
            TargetCache(
                config, rows=rows, length=limits.max_target_tokens, dtype=dtype, device=device
            ),
        )


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type == "cpu":
        return lazy_zeros(shape, dtype)
    return torch.zeros(shape, dtype=dtype, device=device)
