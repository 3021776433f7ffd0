"""Delta forms against the dense float64 product, and the grouping of rows by slot."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import rows_that_differ, torch_threads
from jumplora_adapters.delta import Delta, LowRankDelta, SparseDelta
from jumplora_server.engine.delta import (
    CsrForm,
    DenseForm,
    LowRankForm,
    Phase,
    make_form,
    make_plan,
    product_reference,
)

CPU = torch.device("cpu")
SHAPE = (48, 32)


def masked(density: float, seed: int = 0, shape: tuple[int, int] = SHAPE) -> SparseDelta:
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(shape, generator=generator) < density
    return SparseDelta.from_dense(torch.randn(shape, generator=generator) * keep)


def low_rank(seed: int = 0, shape: tuple[int, int] = SHAPE) -> LowRankDelta:
    generator = torch.Generator().manual_seed(seed)
    return LowRankDelta(
        A=torch.randn(4, shape[1], generator=generator),
        B=torch.randn(shape[0], 4, generator=generator),
    )


DELTAS: dict[str, Delta] = {
    "empty": masked(0.0), "one in twenty": masked(0.05), "two in five": masked(0.4),
    "dense": masked(0.9), "low rank": low_rank(),
}  # fmt: skip


@pytest.mark.parametrize("phase", ["encode", "decode"])
@pytest.mark.parametrize("rows", [1, 2, 7, 64])
@pytest.mark.parametrize("name", DELTAS)
def test_every_form_equals_the_reference(name: str, rows: int, phase: Phase) -> None:
    delta = DELTAS[name]
    x = torch.randn(rows, SHAPE[1], generator=torch.Generator().manual_seed(5))
    product = make_form(delta, CPU).product(x, phase)
    torch.testing.assert_close(product, product_reference(delta, x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("phase", ["encode", "decode"])
@pytest.mark.parametrize("name", DELTAS)
def test_a_rows_bits_do_not_depend_on_its_batch_mates(name: str, phase: Phase) -> None:
    form = make_form(DELTAS[name], CPU)
    x = torch.randn(130, SHAPE[1], generator=torch.Generator().manual_seed(5))
    counts = (*range(1, 18), 33, 127, 128, 129)
    assert rows_that_differ(lambda rows: form.product(rows, phase), x, counts) == []


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("phase", ["encode", "decode"])
@pytest.mark.parametrize("shape", [(768, 768), (1024, 1024)], ids=["base", "large"])
@pytest.mark.parametrize("kind", ["one in twenty", "two in five", "dense", "low rank"])
def test_bits_ignore_mates_at_real_widths_and_any_thread_count(
    kind: str, shape: tuple[int, int], phase: Phase, threads: int
) -> None:
    densities = {"one in twenty": 0.05, "two in five": 0.4, "dense": 0.6}
    if kind in densities:
        form = make_form(masked(densities[kind], shape=shape), CPU)
    else:
        form = make_form(low_rank(shape=shape), CPU)
    x = torch.randn(40, shape[1], generator=torch.Generator().manual_seed(5))
    counts = (*range(1, 18), 33, 39)
    with torch_threads(threads):
        assert rows_that_differ(lambda rows: form.product(rows, phase), x, counts) == []


def test_the_form_follows_kind_and_density() -> None:
    kinds = {name: type(make_form(delta, CPU)) for name, delta in DELTAS.items()}
    assert kinds == {
        "empty": CsrForm, "one in twenty": CsrForm, "two in five": CsrForm,
        "dense": DenseForm, "low rank": LowRankForm,
    }  # fmt: skip


def test_csr_form_takes_eight_bytes_a_non_zero() -> None:
    delta = masked(0.05)
    assert make_form(delta, CPU).nbytes == 8 * delta.nnz + 4 * (SHAPE[0] + 1)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 3), max_size=3, unique=True), min_size=1, max_size=9),
    phase=st.sampled_from(["encode", "decode"]),
    spacing=st.integers(1, 3),
)
def test_a_plan_adds_each_rows_own_lineage(
    rows: list[list[int]], phase: Literal["encode", "decode"], spacing: int
) -> None:
    deltas = [masked(0.2, seed) for seed in range(3)] + [low_rank(3)]
    slots = [{"module": make_form(delta, CPU)} for delta in deltas]
    spans = [(i * spacing, i * spacing + 1) for i in range(len(rows))]
    x = torch.randn(len(rows) * spacing, SHAPE[1], generator=torch.Generator().manual_seed(2))
    start = torch.randn(len(rows) * spacing, 3 * SHAPE[0])
    y = start.clone()
    plan = make_plan([tuple(slots[s] for s in lineage) for lineage in rows], spans, phase, CPU)
    plan.add("module", x, y[:, SHAPE[0] : 2 * SHAPE[0]])  # a column slice, as in fused q, k, v
    plan.add("another module", x, y[:, : SHAPE[0]])
    expected = start.clone()
    for (first, stop), lineage in zip(spans, rows, strict=True):
        for slot in lineage:
            update = product_reference(deltas[slot], x[first:stop])
            expected[first:stop, SHAPE[0] : 2 * SHAPE[0]] += update
    torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-4)


def test_ancestors_are_added_in_lineage_order_whatever_the_batch() -> None:
    slots = [{"m": make_form(masked(0.4, seed), CPU)} for seed in range(3)]
    x = torch.randn(3, SHAPE[1], generator=torch.Generator().manual_seed(2))
    alone = torch.zeros(1, SHAPE[0])
    chain = (slots[0], slots[1], slots[2])
    make_plan([chain], [(0, 1)], "decode", CPU).add("m", x[:1], alone)
    together = torch.zeros(3, SHAPE[0])
    # Mates that meet the same slots at other positions must not reorder row 0's sum.
    mates = [chain, (slots[2], slots[1]), (slots[1],)]
    make_plan(mates, [(0, 1), (1, 2), (2, 3)], "decode", CPU).add("m", x, together)
    assert torch.equal(alone[0], together[0])


@pytest.mark.parametrize(
    ("shape", "rank", "form"),
    [
        ((48, 32), 65, DenseForm),
        ((2000, 16), 32, LowRankForm),
        ((2000, 16), 64, LowRankForm),  # allowed whatever it takes
        ((2000, 16), 65, DenseForm),  # far below the matrix's longer side
        ((16, 2000), 65, DenseForm),
        ((256, 256), 256, LowRankForm),
        ((256, 256), 257, DenseForm),
    ],
)
def test_factors_that_take_far_more_than_their_product_are_multiplied(
    shape: tuple[int, int], rank: int, form: type
) -> None:
    """A head's matrix is long and narrow: a rank below its longer side says little."""
    delta = LowRankDelta(torch.ones(rank, shape[1]), torch.ones(shape[0], rank))
    made = make_form(delta, CPU)
    assert type(made) is form
    assert made.nbytes <= max(8 * shape[0] * shape[1], 4 * 64 * sum(shape))
