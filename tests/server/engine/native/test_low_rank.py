"""Low-rank deltas of several modules and slots in one operation: each finds its own x A^T."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from delta_operation import add_deltas, slot_of
from jumplora_adapters.delta import LowRankDelta
from jumplora_server.engine.delta import product_reference
from jumplora_server.engine.native.forms import low_rank_form
from jumplora_server.engine.native.layout import Kind
from jumplora_server.engine.native.library import why_unavailable

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
    lineage = [
        slot_of({m: low_rank_form(delta) for m, delta in slot.items()}, MODULES) for slot in slots
    ]
    y = torch.zeros(len(x), MODULES * D_OUT)
    add_deltas(kind, x, y, [lineage] * len(x), d_out=D_OUT, modules=(0, MODULES))
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
