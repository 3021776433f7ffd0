"""A tape: the operations of a forward pass, recorded once and replayed in one call.

The CPU's counterpart of a CUDA graph: buffers and weights are fixed, only the step changes.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from jumplora_server.engine.native.layout import Kind, Op, Outcome, Step


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one operation over the replays that were timed; `sizes` is its field n."""

    kind: Kind
    sizes: tuple[int, ...]
    seconds: float


class Tape:
    """Operations in their order, with the tensors they point into kept alive."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """`library`: the kernels that replay it."""
        self._library = library
        self._recorded: list[Op] = []
        self._kept: list[Tensor] = []
        self._ops: ctypes.Array[Op] | None = None
        self._seconds: Tensor | None = None

    def add(
        self,
        kind: Kind,
        *tensors: Tensor | None,
        n: tuple[int, ...] = (),
        f: tuple[float, ...] = (),
    ) -> None:
        """Record one operation; the kernel of its kind names the fields."""
        op = Op(kind=int(kind))
        for i, tensor in enumerate(tensors):
            if tensor is not None:
                self._kept.append(tensor)
                op.p[i] = tensor.data_ptr()
        op.n[: len(n)] = n
        op.f[: len(f)] = f
        self._recorded.append(op)
        self._ops = None

    def replay(self, step: Step) -> None:
        """Compute the step.

        Raises:
            MemoryError: the kernels found no memory for their scratch; the step may be tried again.
            RuntimeError: the kernels failed otherwise.
        """
        if self._ops is None:
            self._ops = (Op * len(self._recorded))(*self._recorded)
        outcome = self._library.jl_run(
            self._ops,
            len(self._recorded),
            ctypes.byref(step),
            torch.get_num_threads(),
            None if self._seconds is None else self._seconds.data_ptr(),
        )
        if outcome == Outcome.OUT_OF_MEMORY:
            raise MemoryError("the kernels found no memory for a step")
        if outcome != Outcome.DONE:
            raise RuntimeError("the kernels could not compute a step")

    def start_timing(self) -> None:
        """Have every replay from now on add up what each operation takes."""
        self._seconds = torch.zeros(len(self._recorded), dtype=torch.float64)

    def timings(self) -> list[Timing]:
        """What each operation took since timing started, in order."""
        assert self._seconds is not None, "start_timing comes first"
        return [
            Timing(Kind(op.kind), tuple(op.n), seconds)
            for op, seconds in zip(self._recorded, self._seconds.tolist(), strict=True)
        ]
