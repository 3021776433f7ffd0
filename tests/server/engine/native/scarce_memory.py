"""Run as a script: a step that finds no memory fails, and the next one computes what it should.

    scarce_memory.py THREADS

It takes the process's whole address space away for one replay, so it needs a process of its own.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import torch
from torch import Tensor

from jumplora_server.engine.native.layout import Kind, Step
from jumplora_server.engine.native.library import best_set, load_library
from jumplora_server.engine.native.tape import Tape

ROWS, HEADS = 4, 4
LONG = 2 << 20  # tokens of a prompt, whose scores are 8 MiB of scratch a thread


class Attention:
    """Rows that attend to one prompt of `length` tokens, in one operation."""

    def __init__(self, length: int) -> None:
        self.q = torch.randn(ROWS, HEADS)  # heads of one number
        self.keys, self.values = torch.randn(HEADS, length), torch.randn(HEADS, length)
        self.read = torch.zeros(ROWS, HEADS)
        self._tape = Tape(load_library(best_set()))
        self._tape.add(
            Kind.ATTEND_CROSS, self.q, self.read, self.keys, self.values, n=(HEADS, 1, length)
        )
        self._lengths = (ctypes.c_int64 * ROWS)(*[length] * ROWS)
        self._places = (ctypes.c_int64 * ROWS)()
        self._step = Step(
            rows=ROWS, sequences=ROWS, lengths=ctypes.addressof(self._lengths),
            source_places=ctypes.addressof(self._places),
        )  # fmt: skip

    def replay(self) -> None:
        """Compute `read`."""
        self._tape.replay(self._step)

    def expected(self) -> Tensor:
        """The same by torch, in float64."""
        scores = self.q.double()[:, :, None] * self.keys.double()
        return (torch.softmax(scores, -1) * self.values.double()).sum(-1).float()


def main(threads: int) -> None:
    """Raises AssertionError; the process must not end otherwise."""
    torch.set_num_threads(threads)
    Attention(16).replay()  # the helpers run now
    attention = Attention(LONG)
    _, unlimited = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), unlimited))
    try:
        attention.replay()
    except MemoryError as error:
        failure = str(error)
    else:
        failure = "none"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (unlimited, unlimited))
    assert failure == "the kernels found no memory for a step", failure
    attention.replay()
    torch.testing.assert_close(attention.read, attention.expected(), atol=1e-3, rtol=1e-3)
    print("survived")


if __name__ == "__main__":
    main(int(sys.argv[1]))
