"""What this machine can do at most, measured: bytes read and operations computed a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from jumplora_bench.shapes import ShapeName

_BYTES = 1 << 30
_ROWS, _DEPTH = 1024, 3072


@dataclass(frozen=True, slots=True)
class Roofs:
    """Bytes of a read that misses every cache, and operations (two a product), a second."""

    bytes_per_second: float
    operations_per_second: float

    def floor(self, nbytes: float, operations: float) -> float:
        """Seconds that neither the reads nor the arithmetic can go below."""
        return max(nbytes / self.bytes_per_second, operations / self.operations_per_second)


def shrink_of(shape: ShapeName) -> int:
    """Of `measure_roofs`: a tiny backbone measures nothing."""
    return 64 if shape == "tiny" else 1


def measure_roofs(dtype: str, shrink: int = 1) -> Roofs:
    """The best of several reads of 1 GiB, and of several large products of torch in `dtype`.

    `shrink` divides the bytes and the products, for a run that only shows that it runs.
    """
    nbytes, rows = _BYTES // shrink, max(32, _ROWS // shrink)
    memory = torch.ones(nbytes // 4)
    read = _best(lambda: memory.sum())
    if dtype == "int8":
        left = torch.ones(rows, _DEPTH, dtype=torch.int8)
        right = torch.ones(_DEPTH, _DEPTH, dtype=torch.int8)
        product = _best(lambda: torch._int_mm(left, right))
    else:
        x, weight = torch.ones(rows, _DEPTH), torch.ones(_DEPTH, _DEPTH)
        product = _best(lambda: x @ weight)
    return Roofs(nbytes / read, 2 * rows * _DEPTH * _DEPTH / product)


def _best(run: Callable[[], object], times: int = 8) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
