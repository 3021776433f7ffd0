"""Loads on a stream of their own, from pinned memory: a load never blocks the compute stream.

The thread that loads waits for its copy, so what it returns may be used on any stream. Without a
GPU the same calls are plain copies, which is how they are tested there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Uploader:
    """Copies host buffers to one device beside whatever that device computes; any thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def upload(self, nbytes: int, fill: Callable[[Tensor, int], None]) -> Tensor:
        """A new device buffer, uint8 [nbytes], with what `fill(host, address)` wrote for it.

        `address` is where the buffer will lie on the device; `host` is uint8 [nbytes], undefined.
        """
        if self._stream is None:
            buffer = torch.empty(nbytes, dtype=torch.uint8)
            fill(buffer, buffer.data_ptr())
            return buffer
        with self.beside():
            buffer = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
            host = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
            fill(host, buffer.data_ptr())
            buffer.copy_(host, non_blocking=True)
        return buffer

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Run what the block asks of the device on the side stream, and wait for it at the end."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
            # A blocking event sleeps; without it the waiting thread would spin on a core.
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            done.record(self._stream)
        done.synchronize()

    def keep_for(self, buffer: Tensor) -> None:
        """Say that the current stream uses a buffer: freed, its memory waits for that stream.

        The allocator knows a buffer only as the side stream's, and would give its memory to the
        next load while a kernel of the compute stream still reads it.
        """
        if self._stream is not None:
            buffer.record_stream(torch.cuda.current_stream(self._device))
