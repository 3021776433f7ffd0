"""Memory of this process, given back to the system, where the C library is glibc."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# From <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LEAN_BYTES = 1 << 20
# What glibc comes to by itself in a process that frees blocks of this size: its highest threshold.
_USUAL_BYTES = 32 << 20


def trim_memory() -> None:
    """Give free pages back.

    Packing leaves holes of many times the packed bytes in glibc's heap: 1.1 GB after eight T5-base
    adapters of 17.5 MB, all of which this gives back.
    """
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


@contextmanager
def lean_memory() -> Iterator[None]:
    """Within the block, large tensors go back to the system once they are freed; at its end what
    else is free.

    A load frees a temporary tensor for each that it keeps. In glibc's heap they would lie between
    those: 1.1 GB of holes after T5-large in float32. At other times they are better kept: a step
    asks for the same sizes again, and new pages would cost more than its work on them.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _LEAN_BYTES)
    try:
        yield
    finally:
        # Setting one ends glibc's own adjustment of both.
        libc.mallopt(_M_MMAP_THRESHOLD, _USUAL_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _USUAL_BYTES)
        libc.malloc_trim(0)


def lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros whose pages cost memory once they are written. torch's own are all written at once."""
    tensor = torch.empty(shape, dtype=dtype, device="meta")  # for its size
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    pages = mmap.mmap(-1, max(1, tensor.nbytes), flags=flags)
    return torch.frombuffer(pages, dtype=dtype, count=tensor.numel()).view(shape)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None
