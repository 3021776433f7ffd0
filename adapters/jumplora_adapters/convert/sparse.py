"""The entries of a sparse delta as other programs list them: positions, and a value at each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jumplora_adapters.convert.factors import check_readable
from jumplora_adapters.delta import SparseDelta, mask_bytes
from jumplora_adapters.errors import ConvertError

EXACT_FLOAT = 1 << 24  # up to here float32 has every whole number
_WHOLE = (torch.int16, torch.uint16, torch.int32, torch.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Positions in the flattened matrix in rising order, each once, and their values."""

    shape: tuple[int, int]
    positions: Tensor  # int64 [nnz]
    values: Tensor  # float32 [nnz]

    def to_delta(self, dtype: torch.dtype) -> SparseDelta:
        """The delta, values rounded to `dtype`; what rounds to zero is dropped.

        Raises ConvertError for a value that leaves the range of `dtype`.
        """
        rounded = self.values.to(dtype)
        if not bool(torch.isfinite(rounded).all()):
            raise ConvertError(f"a value is infinite as {dtype}: give wider --values")
        kept = rounded != 0
        positions = self.positions[kept].numpy()
        mask = np.zeros(mask_bytes(self.shape[0] * self.shape[1]), dtype=np.uint8)
        bits = np.left_shift(np.uint8(1), (positions % 8).astype(np.uint8))
        np.bitwise_or.at(mask, positions // 8, bits)
        return SparseDelta(self.shape, torch.from_numpy(mask), rounded[kept].contiguous())


def entries_at(module: str, positions: Tensor, values: Tensor, shape: tuple[int, int]) -> Entries:
    """The entries at flat `positions` (int64) of a matrix of that shape.

    Raises ConvertError for counts that differ, a position outside of the matrix or one that comes
    twice, and a value that is not finite.
    """
    check_readable(f"{module}: the values", values)
    if positions.dim() != 1 or values.shape != positions.shape:
        raise ConvertError(
            f"{module}: indices {tuple(positions.shape)} and values {tuple(values.shape)}: a value"
            " for each index is expected"
        )
    size = shape[0] * shape[1]
    if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < size:
        raise ConvertError(
            f"{module}: the indices go from {int(positions.min())} to {int(positions.max())},"
            f" allowed are 0 to {size - 1}: the adapter belongs to another backbone"
        )
    ordered, order = torch.sort(positions)
    if bool((ordered[1:] == ordered[:-1]).any()):
        raise ConvertError(f"{module}: an index comes twice, each may come once")
    given = values.detach().float()[order]
    if not bool(torch.isfinite(given).all()):
        raise ConvertError(f"{module}: a value is NaN or infinity: the training diverged")
    return Entries(shape, ordered, given)


def flat_positions(module: str, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> Tensor:
    """Positions in the flattened matrix. Raises ConvertError for a row or column outside of it."""
    for what, given, size in (("row", rows, shape[0]), ("column", columns, shape[1])):
        if given.numel() and not 0 <= int(given.min()) <= int(given.max()) < size:
            raise ConvertError(
                f"{module}: the {what} indices go from {int(given.min())} to {int(given.max())},"
                f" allowed are 0 to {size - 1}: the adapter belongs to another backbone"
            )
    return rows * shape[1] + columns


def whole_numbers(what: str, tensor: Tensor) -> Tensor:
    """As int64. Raises ConvertError unless they are whole numbers that were stored exactly."""
    if tensor.dtype in _WHOLE:
        return tensor.to(torch.int64)
    if tensor.dtype == torch.float32:
        if tensor.numel() and not bool((tensor.abs() < EXACT_FLOAT).all()):
            raise ConvertError(f"{what}: float32 holds whole numbers under {EXACT_FLOAT} alone")
        if bool((tensor != tensor.floor()).any()):
            raise ConvertError(f"{what}: an index is not a whole number")
        return tensor.to(torch.int64)
    raise ConvertError(f"{what} is of {tensor.dtype}, expected whole numbers")
