"""One buffer for all arrays of a slot, so that one copy loads it and one free frees it."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from jumplora_server.engine.cuda.record import FIELDS, Record

ALIGNMENT: Final = 16  # bytes; the widest load a GPU thread does


class Pool:
    """The layout of a slot: its table of records first, then its arrays, each aligned."""

    def __init__(self, modules: int) -> None:
        self._records: dict[int, Record] = {}
        self._arrays: list[tuple[int, Tensor]] = []
        self._modules = modules
        self.nbytes = _aligned(modules * FIELDS * 8)

    def place(self, array: Tensor) -> int:
        """Reserve room for a CPU array and return its offset in bytes."""
        offset = self.nbytes
        if array.numel():  # empty tensors cannot be viewed as bytes
            self._arrays.append((offset, array))
        self.nbytes = _aligned(offset + array.numel() * array.element_size())
        return offset

    def describe(self, module: int, record: Record) -> None:
        """Set the record of a module; modules that are never described have none."""
        self._records[module] = record

    def write(self, host: Tensor, base: int) -> None:
        """Fill `host` uint8 [nbytes] with what belongs at device address `base`."""
        table = torch.zeros(self._modules, FIELDS, dtype=torch.int64)
        for module, record in self._records.items():
            table[module] = torch.tensor(record.fields(base))
        _put(host, 0, table)
        for offset, array in self._arrays:
            _put(host, offset, array)


def view(pool: Tensor, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An array of a loaded pool, uint8 [nbytes], without a copy."""
    count = torch.Size(shape).numel()
    return pool[offset : offset + count * dtype.itemsize].view(dtype).view(shape)


def _put(host: Tensor, offset: int, array: Tensor) -> None:
    flat = array.contiguous().view(-1).view(torch.uint8)
    host[offset : offset + flat.numel()] = flat


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
