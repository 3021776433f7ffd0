"""Low-rank deltas of several modules and slots in one operation: each finds its own x A^T."""

from __future__ import annotations

import ctypes

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jumplora_adapters.delta import LowRankDelta
from jumplora_server.engine.delta import product_reference
from jumplora_server.engine.native.forms import low_rank_form
from jumplora_server.engine.native.layout import LANES, Block, DeltaStruct, Kind, Step
from jumplora_server.engine.native.library import best_set, load_library, why_unavailable
from jumplora_server.engine.native.tape import Tape

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))

D_OUT, D_IN, MODULES = 150, 37, 3  # several ranges of outputs, and rests everywhere
Slot = tuple[int, ...]  # the rank of each module; 0 for none


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def deltas_of(slot: Slot, seed: int) -> dict[int, LowRankDelta]:
    return {
        m: LowRankDelta(numbers(rank, D_IN, seed=seed + m) / D_IN, numbers(D_OUT, rank, seed=m))
        for m, rank in enumerate(slot)
        if rank
    }


def added(kind: Kind, x: Tensor, slots: list[dict[int, LowRankDelta]]) -> Tensor:
    """x D^T of all slots by the kernel [rows, MODULES * D_OUT], the rows being one block."""
    forms = [{m: low_rank_form(delta) for m, delta in slot.items()} for slot in slots]
    tables = [
        (DeltaStruct * MODULES)(
            *(own[m].struct() if m in own else DeltaStruct() for m in range(MODULES))
        )
        for own in forms
    ]
    addresses = (ctypes.c_void_p * len(slots))(*map(ctypes.addressof, tables))
    lanes = -(-len(x) // LANES) * LANES
    inner = torch.empty(lanes * sum(form.rank for own in forms for form in own.values()))
    blocks = (Block * 1)(Block(0, len(x), 0, 0, len(slots), 0))
    y = torch.zeros(len(x), MODULES * D_OUT)
    tape = Tape(load_library(best_set()))
    tape.add(
        kind, x, y, None, torch.empty(lanes * D_IN), n=(D_IN, D_OUT, MODULES * D_OUT, 0, MODULES)
    )
    step = Step(
        rows=len(x), blocks_count=1, blocks=ctypes.addressof(blocks),
        tables=ctypes.addressof(addresses), inner=inner.data_ptr(),
    )  # fmt: skip
    tape.replay(step)
    return y


ranks = st.sampled_from([0, 1, 3, 4, 8, 13, 64])


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([Kind.DELTA_FEW, Kind.DELTA_MANY]),
    rows=st.integers(1, 64),
    slots=st.lists(st.tuples(ranks, ranks, ranks), min_size=1, max_size=3),
)
def test_every_rank_in_every_place_equals_the_reference(
    kind: Kind, rows: int, slots: list[Slot]
) -> None:
    x = numbers(rows, D_IN, seed=1)
    deltas = [deltas_of(slot, seed=10 * i) for i, slot in enumerate(slots)]
    expected = torch.zeros(rows, MODULES, D_OUT)
    for slot in deltas:
        for m, delta in slot.items():
            expected[:, m] += product_reference(delta, x)
    found = added(kind, x, deltas)
    torch.testing.assert_close(found.view(expected.shape), expected, atol=1e-4, rtol=1e-4)
    for row in {0, rows // 2, rows - 1}:
        assert torch.equal(added(kind, x[row : row + 1].clone(), deltas)[0], found[row])
