"""One delta operation of the native kernels, for rows that each have a lineage of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from jumplora_server.engine.bank import PackedAdapter
from jumplora_server.engine.native.forms import NativeAdapter, NativeForm, with_table
from jumplora_server.engine.native.layout import LANES, Kind
from jumplora_server.engine.native.library import best_set, load_library
from jumplora_server.engine.native.step import prepare
from jumplora_server.engine.native.tape import Tape
from jumplora_server.engine.native.work import decode_work, encode_work

Slot = Mapping[int, NativeForm]  # module -> form


def slot_of(forms: Slot, modules: int) -> NativeAdapter:
    """A slot with some forms, each at the place of its module."""
    sites = {str(module): module for module in range(modules)}
    named = {str(module): form for module, form in forms.items()}
    return with_table(PackedAdapter("", named, 0, 0, 0.0), sites)


def add_deltas(
    kind: Kind,
    x: Tensor,
    y: Tensor,
    lineages: Sequence[Sequence[NativeAdapter]],
    *,
    d_out: int,
    modules: tuple[int, int],
) -> None:
    """y [rows, stride] += each row's lineage, oldest first.

    Args:
        modules: the number of the first one, whose columns begin at y's first, and how many.
    """
    rows, d_in = x.shape
    slots = [tuple(lineage) for lineage in lineages]
    first, count = modules
    if kind is Kind.DELTA_FEW:
        work = decode_work(slots, first + count)
    else:
        work = encode_work(((i, i + 1) for i in range(rows)), slots, first + count)
    inner = torch.full((work.inner,), torch.nan)
    scratch = torch.full(((rows + LANES * rows) * d_in,), torch.nan)
    tape = Tape(load_library(best_set()))
    tape.add(kind, x, y, scratch, n=(d_in, d_out, y.stride(0), first, count))
    prepared = prepare(
        tokens=[0] * rows,
        lengths=[1] * rows,
        source_places=[0] * rows,
        work=work,
        inner=inner if work.inner else None,
    )
    tape.replay(prepared.step)
