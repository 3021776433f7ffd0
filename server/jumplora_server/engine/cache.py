"""The attention caches: one fixed row a sequence, written in place, never gathered or sorted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jumplora_adapters.architecture import Architecture
from jumplora_server.engine.memory import lazy_zeros
from jumplora_server.engine.sampling import to_device

# Attention runs over lengths rounded up to this. With it, a row's softmax and its sum over values
# have the same bits whatever longer rows stand beside it (tests/server/engine/test_engine.py): MKL
# takes another kernel for products of up to 256 numbers, which is 16 keys of 16, or 32 of 8.
LENGTH_STEP = 64


def round_up(length: int) -> int:
    """The next multiple of LENGTH_STEP."""
    return -(-length // LENGTH_STEP) * LENGTH_STEP


class RowCache:
    """Keys and values of every decoder layer for `rows` sequences.

    Self-attention: [layers, rows, heads, target, d_kv]; cross-attention: [layers, rows, heads,
    source, d_kv]. On a CPU pages cost memory once a row has used them.
    """

    def __init__(
        self,
        config: Architecture,
        *,
        rows: int,
        max_source: int,
        max_target: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        layers, heads, width = config.num_decoder_layers, config.num_heads, config.d_kv
        self.rows = rows
        self.source = round_up(max_source)
        self.target = round_up(max_target)
        own = (layers, rows, heads, self.target, width)
        cross = (layers, rows, heads, self.source, width)

        def zeros(shape: tuple[int, ...]) -> Tensor:
            if device.type == "cpu":
                return lazy_zeros(shape, dtype)
            return torch.zeros(shape, dtype=dtype, device=device)

        self.self_k, self.self_v = zeros(own), zeros(own)
        self.cross_k, self.cross_v = zeros(cross), zeros(cross)
        # Additive mask of the source: 0 inside a row's prompt, the dtype's lowest number outside
        # it (not -inf: a free row that is computed along must not make NaN).
        self.lowest = torch.finfo(dtype).min
        self.source_mask = torch.full((rows, self.source), self.lowest, dtype=dtype, device=device)
        self.source_lengths = torch.zeros(rows, dtype=torch.int64, device=device)

    def open_rows(self, rows: Sequence[int], source_lengths: Sequence[int]) -> None:
        """Make rows ready for prompts of that many tokens."""
        device = self.source_mask.device
        lengths = torch.tensor(source_lengths, dtype=torch.int64)
        outside = torch.arange(self.source) >= lengths[:, None]
        mask = torch.zeros(outside.shape, dtype=self.source_mask.dtype)
        index = to_device(torch.tensor(rows, dtype=torch.int64), device)
        self.source_mask[index] = to_device(mask.masked_fill_(outside, self.lowest), device)
        self.source_lengths[index] = to_device(lengths, device)

    def clear_row(self, row: int) -> None:
        """Forget a row's numbers, after it failed.

        Masks are added to scores, so a stale NaN behind the mask would spoil the row's next tenant.
        """
        for cache in (self.self_k, self.self_v, self.cross_k, self.cross_v):
            cache[:, row].zero_()

    def write_source(self, layer: int, rows: Tensor, k: Tensor, v: Tensor) -> None:
        """Store a layer's cross-attention keys and values, each [b, heads, length, d_kv]."""
        length = k.shape[2]
        self.cross_k[layer][rows, :, :length] = k
        self.cross_v[layer][rows, :, :length] = v

    def append(self, layer: int, rows: Tensor, positions: Tensor, k: Tensor, v: Tensor) -> None:
        """Store one step's keys and values, each [n, heads, d_kv], at each row's position."""
        self.self_k[layer][rows, :, positions] = k
        self.self_v[layer][rows, :, positions] = v
