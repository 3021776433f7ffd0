"""Which packed modules an encode expands, and the memory they are expanded into.

Picking tokens number by number takes as long as the tokens are many; a module laid out as a matrix
goes through tensor cores, at a price that is the same for one token and for 128 (server/GPU.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

# Prompts of so many tokens are expanded. By the prompt alone, not by all tokens of its slot: how a
# row is computed must not depend on its batch mates.
EXPAND_FROM: Final = 32
EXPANDED_TOKENS: Final = 128  # tokens of a tile
LINES: Final = 128  # a matrix has a multiple of so many rows
COLUMNS: Final = 64  # and of so many columns

# bfloat16 numbers whose sum is a value of the type: 8 bits of significand each.
PLANES: Final = {torch.bfloat16: 1, torch.float16: 2, torch.float32: 3}

# All matrices of 64 tasks on T5-large in bfloat16. What an H100's cache holds would be a quarter.
SCRATCH_BYTES: Final = 128 << 20


@dataclass(frozen=True, slots=True)
class Chunk:
    """Slots that are expanded together, and the tokens that each of them is for."""

    slots: Tensor  # int64 [m], addresses of slot tables
    tiles: Tensor  # int64 [n_tiles, 3]: which of the slots, first token, token after the last
    planes: int  # of every number


class Scratch:
    """Memory for expanded matrices, at most `nbytes` or one matrix; one stream at a time."""

    def __init__(self, nbytes: int = SCRATCH_BYTES) -> None:
        self._nbytes = nbytes
        self._memory: Tensor | None = None

    def capacity(self, planes: int, shape: tuple[int, int]) -> int:
        """How many matrices of a shape fit, at least one."""
        rows, width = padded(shape)
        return max(1, self._nbytes // (2 * planes * rows * width))

    def matrices(self, chunk: Chunk, shape: tuple[int, int], device: torch.device) -> Tensor:
        """int16 [slots, planes, rows, width], undefined, on the device."""
        size = (chunk.slots.shape[0], chunk.planes, *padded(shape))
        count = torch.Size(size).numel()
        if self._memory is None or self._memory.numel() < count:
            self._memory = None  # freed before the larger one is taken
            self._memory = torch.empty(count, dtype=torch.int16, device=device)
        return self._memory[:count].view(size)


def padded(shape: tuple[int, int]) -> tuple[int, int]:
    """The rows and columns of an expanded matrix [d_out, d_in]."""
    d_out, d_in = shape
    return -(-d_out // LINES) * LINES, -(-d_in // COLUMNS) * COLUMNS


def make_chunks(
    work: Sequence[tuple[int, int, int]], capacity: int
) -> Iterator[tuple[list[int], list[tuple[int, int, int]]]]:
    """The slots and tiles of chunks of at most `capacity` slots.

    Args:
        work: per span its slot's address, the first token and the token after the last.
    """
    slots: dict[int, int] = {}
    tiles: list[tuple[int, int, int]] = []
    for address, start, stop in work:
        if address not in slots and len(slots) == capacity:
            yield list(slots), tiles
            slots, tiles = {}, []
        place = slots.setdefault(address, len(slots))
        tiles.extend(
            (place, first, min(first + EXPANDED_TOKENS, stop))
            for first in range(start, stop, EXPANDED_TOKENS)
        )
    if slots:
        yield list(slots), tiles
