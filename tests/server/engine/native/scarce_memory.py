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

from jumplora_server.engine.native.forms import LowRankForm
from jumplora_server.engine.native.layout import Block, DeltaStruct, Kind, Step
from jumplora_server.engine.native.tape import Tape
from jumplora_server.engine.native.weights import pack_float

D_IN, D_OUT, ROWS = 16, 2048, 64
SCRATCH_RANK = 32_768  # 64 rows of it are 8 MiB of scratch a thread


def main(threads: int) -> None:
    """Raises AssertionError; the process must not end otherwise."""
    torch.set_num_threads(threads)
    x = torch.randn(ROWS, D_IN)
    small, large = _factors(4), _factors(SCRATCH_RANK)
    _added(x, *small)  # the helpers run now
    tape, step, y, _kept = _recorded(x, *large)
    _, unlimited = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), unlimited))
    try:
        tape.replay(step)
    except MemoryError as error:
        failure = str(error)
    else:
        failure = "none"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (unlimited, unlimited))
    assert failure == "the kernels found no memory for a step", failure
    y.zero_()
    tape.replay(step)
    torch.testing.assert_close(y, x @ large[0].t() @ large[1].t(), atol=1e-3, rtol=1e-3)
    print("survived")


def _factors(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rank, D_IN) / D_IN, torch.randn(D_OUT, rank) / rank**0.5


def _added(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    tape, step, y, _kept = _recorded(x, a, b)
    tape.replay(step)
    return y


def _recorded(
    x: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> tuple[Tape, Step, torch.Tensor, object]:
    form = LowRankForm(pack_float(a), pack_float(b), len(a))
    table = (DeltaStruct * 1)(form.struct())
    tables = (ctypes.c_void_p * 1)(ctypes.addressof(table))
    blocks = (Block * 1)(Block(0, ROWS, 0, 0, 1))
    y = torch.zeros(ROWS, D_OUT)
    tape = Tape()
    tape.add(Kind.DELTA_FEW, x, y, n=(D_IN, D_OUT, D_OUT, 0, 1))
    step = Step(
        rows=ROWS, blocks_count=1, blocks=ctypes.addressof(blocks),
        tables=ctypes.addressof(tables),
    )  # fmt: skip
    return tape, step, y, (form, table, tables, blocks)


if __name__ == "__main__":
    main(int(sys.argv[1]))
