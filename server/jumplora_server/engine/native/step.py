"""The structure of one step, and the arrays that it points to."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence as Rows
from dataclasses import dataclass

from torch import Tensor

from jumplora_server.engine.native.layout import Step
from jumplora_server.engine.native.nodes import NodeArrays
from jumplora_server.engine.native.work import Work


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
    nodes: NodeArrays | None = None,
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
        *(() if nodes is None else map(ctypes.addressof, nodes.fields)),
    )
    return Prepared(step, (given, *numbers, work, inner, asked, nodes))
