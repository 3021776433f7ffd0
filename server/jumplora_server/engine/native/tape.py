"""A tape: the operations of a forward pass, recorded once and replayed in one call.

The CPU's counterpart of a CUDA graph: buffers and weights are fixed, only the step changes.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from jumplora_server.engine.native.layout import Kind, Op, Step
from jumplora_server.engine.native.library import load_library


class Tape:
    """Operations in their order, with the tensors they point into kept alive."""

    def __init__(self) -> None:
        self._library = load_library()
        self._recorded: list[Op] = []
        self._kept: list[Tensor] = []
        self._ops: ctypes.Array[Op] | None = None

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

    def replay(self, step: Step, seconds: Tensor | None = None) -> None:
        """Compute the step.

        Args:
            seconds: [operations] float64, to which each operation's time is added, or None.
        """
        if self._ops is None:
            self._ops = (Op * len(self._recorded))(*self._recorded)
        self._library.jl_run(
            self._ops,
            len(self._recorded),
            ctypes.byref(step),
            torch.get_num_threads(),
            None if seconds is None else seconds.data_ptr(),
        )

    @property
    def kinds(self) -> list[Kind]:
        """What each operation computes, in order."""
        return [Kind(op.kind) for op in self._recorded]
