"""The structure of one step, and the arrays that it points to."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence as Rows
from dataclasses import dataclass

from torch import Tensor

from jumplora_server.engine.native.layout import Step
from jumplora_server.engine.native.work import Work


class Edges:
    """The tokens that may follow each row of a step, and what the kernels find of them."""

    def __init__(self, tokens: Rows[Rows[int]]) -> None:
        """`tokens[i]`: of the i-th row."""
        self._bounds = [*itertools.accumulate(map(len, tokens), initial=0)]
        count = self._bounds[-1]
        self._logprobs = (ctypes.c_double * count)()
        self.arrays = (  # as a step wants them
            (ctypes.c_int64 * len(self._bounds))(*self._bounds),
            (ctypes.c_int32 * count)(*itertools.chain.from_iterable(tokens)),
            self._logprobs,
        )

    def found(self, row: int) -> tuple[float, ...]:
        """The log-probabilities of a row's edges, once the step was computed."""
        return tuple(self._logprobs[self._bounds[row] : self._bounds[row + 1]])


@dataclass(frozen=True, slots=True)
class Prepared:
    """A step and the arrays that it points into: hold it until the step was computed."""

    step: Step
    arrays: tuple[object, ...]


def prepare(
    *,
    tokens: Rows[int],
    lengths: Rows[int],
    source_places: Rows[int],
    starts: Rows[int] = (),
    target_rows: Rows[int] = (),
    positions: Rows[int] = (),
    work: Work | None = None,
    inner: Tensor | None = None,
    samplings: Rows[int | None] = (),
    parents: Rows[int] = (),
    edges: Edges | None = None,
) -> Prepared:
    """The step of these numbers; layout.Step says what they are."""
    work = work or Work()
    numbers = [
        (ctypes.c_int64 * len(values))(*values)
        for values in (starts, lengths, source_places, target_rows, positions)
    ]
    given = (ctypes.c_int32 * len(tokens))(*tokens)
    parts = (work.segments, work.families, work.blocks)
    asked = (ctypes.c_void_p * len(samplings))(*samplings) if any(samplings) else None
    before = (ctypes.c_int64 * len(parents))(*parents) if edges is not None else None
    found = () if edges is None else edges.arrays
    step = Step(
        len(tokens),
        len(lengths),
        ctypes.addressof(given),
        *map(ctypes.addressof, numbers),
        *itertools.chain.from_iterable((len(part), ctypes.addressof(part)) for part in parts),
        work.targeted,
        work.merged,
        None if inner is None else inner.data_ptr(),
        None if asked is None else ctypes.addressof(asked),
        None if before is None else ctypes.addressof(before),
        *(ctypes.addressof(array) for array in found),
    )
    return Prepared(step, (given, *numbers, work, inner, asked, before, *found))
