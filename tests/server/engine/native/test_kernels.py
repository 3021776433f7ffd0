"""Each native kernel against its slow reference, and its rows' bits in company and alone."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import delta_operation
from delta_operation import slot_of
from jumplora_adapters.delta import Delta, LowRankDelta, SparseDelta
from jumplora_server.engine.delta import product_reference
from jumplora_server.engine.linear import Int8Linear, int8_linear_reference
from jumplora_server.engine.native.forms import (
    DenseForm,
    LowRankForm,
    NativeForm,
    SparseForm,
    make_form,
    sparse_form,
)
from jumplora_server.engine.native.layout import (
    Block,
    DeltaStruct,
    Family,
    Kind,
    Op,
    SamplingStruct,
    Segment,
    Step,
)
from jumplora_server.engine.native.library import best_set, load_library, why_unavailable
from jumplora_server.engine.native.tape import Tape
from jumplora_server.engine.native.weights import pack_weights

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))

SHAPES = [(1, 1), (37, 30), (64, 96), (96, 17)]  # (d_out, d_in): panels and vectors with a rest
ROWS = (1, 2, 13, 14, 15, 29, 64, 70, 130)


@pytest.fixture(params=[1, 2, 3], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def form_of(delta: Delta) -> NativeForm:
    return make_form(delta, load_library(best_set()))


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def linear(x: Tensor, weight: Tensor, dtype: str, y: Tensor | None = None) -> Tensor:
    """x W^T by the kernel; added to `y` where it is given."""
    packed = pack_weights([weight], dtype)
    rows, d_out = len(x), len(weight)
    out = torch.full((rows, d_out), torch.nan) if y is None else y.clone()
    scratch = torch.empty(rows * (x.shape[1] + 7))
    tape = Tape(load_library(best_set()))
    kind = Kind.LINEAR_F32 if packed.scales is None else Kind.LINEAR_I8
    tape.add(
        kind, x, packed.panels, out, scratch, packed.scales,
        n=(x.shape[1], d_out, d_out, int(y is not None), 0, 1),
    )  # fmt: skip
    tape.replay(Step(rows=rows))
    return out


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float_linear_equals_the_float64_product(shape: tuple[int, int]) -> None:
    weight, x = numbers(*shape), numbers(130, shape[1], seed=1)
    whole = linear(x, weight, "float32")
    expected = (x.double() @ weight.double().t()).float()
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=1e-5)
    for rows in ROWS:
        assert torch.equal(linear(x[:rows].clone(), weight, "float32"), whole[:rows])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_int8_linear_has_the_bits_of_its_reference(shape: tuple[int, int], rows: int) -> None:
    weight, x = numbers(*shape), numbers(rows, shape[1], seed=1)
    x[0] *= 1e4  # an outlier row coarsens nobody else
    expected = int8_linear_reference(x, Int8Linear(weight))
    assert torch.equal(linear(x, weight, "int8"), expected)
    start = numbers(rows, shape[0], seed=2)
    assert torch.equal(linear(x, weight, "int8", start), start + expected)


def test_a_fork_computes_with_threads_of_its_own() -> None:
    weight, x = numbers(64, 96), numbers(130, 96, seed=1)
    expected = linear(x, weight, "float32")  # the helpers of this process run now
    child = os.fork()
    if child == 0:  # with one thread
        is_equal = torch.equal(linear(x, weight, "float32"), expected)
        has_help = len(os.listdir("/proc/self/task")) == torch.get_num_threads()
        os._exit(0 if is_equal and has_help else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_step_without_memory_fails_and_the_next_one_computes() -> None:
    # glibc would else raise its threshold, and find the memory on its heap
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576"}
    script = Path(__file__).with_name("scarce_memory.py")
    done = subprocess.run(
        [sys.executable, str(script), str(torch.get_num_threads())],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr[-2000:]


@pytest.mark.parametrize(
    "structure", [Op, DeltaStruct, Segment, Block, Family, SamplingStruct, Step]
)
def test_a_structure_takes_no_field_that_the_kernels_do_not_know(
    structure: type[ctypes.Structure],
) -> None:
    with pytest.raises(AttributeError, match="former_name"):
        structure(former_name=1)


def test_an_unknown_operation_fails_its_step() -> None:
    tape = Tape(load_library(best_set()))
    tape.add(99)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="could not compute a step"):
        tape.replay(Step(rows=1))


def test_factors_that_take_more_than_twice_the_matrix_become_the_matrix() -> None:
    delta, x = low_rank((70, 96), rank=81), numbers(5, 96)
    assert isinstance(form_of(low_rank((70, 96), rank=80)), LowRankForm)
    form = form_of(delta)
    assert isinstance(form, DenseForm)
    assert form.nbytes == 96 * 96 * 4  # whole panels of 32
    y = add_deltas(Kind.DELTA_FEW, x, torch.zeros(5, 3 * 70), [[delta]] * 5)
    torch.testing.assert_close(y[:, 70:140], product_reference(delta, x), atol=1e-3, rtol=1e-4)


def test_no_rows_are_no_work() -> None:
    assert linear(numbers(0, 30), numbers(37, 30), "float32").shape == (0, 37)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_row_does_not_come_out_of_int8_sound_and_breaks_no_other(bad: float) -> None:
    weight, x = numbers(37, 30), numbers(5, 30, seed=1)
    sound = linear(x, weight, "int8")
    x[3, 17] = bad
    got = linear(x, weight, "int8")
    assert not torch.isfinite(got[3]).any()
    others = [0, 1, 2, 4]
    assert torch.equal(got[others], sound[others])


def masked(density: float, dtype: torch.dtype, seed: int, shape: tuple[int, int]) -> SparseDelta:
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(shape, generator=generator) < density
    keep[:: max(1, shape[0] // 3)] = False  # some outputs get nothing at all
    if density == 1:
        keep[:] = True
    return SparseDelta.from_dense(torch.randn(shape, generator=generator) * keep, dtype)


def low_rank(shape: tuple[int, int], rank: int = 5) -> LowRankDelta:
    return LowRankDelta(A=numbers(rank, shape[1], seed=7), B=numbers(shape[0], rank, seed=8))


def add_deltas(kind: Kind, x: Tensor, y: Tensor, lineages: Sequence[Sequence[Delta]]) -> Tensor:
    """y plus each row's lineage, oldest first; one module in the middle third of y's columns."""
    d_out = y.shape[1] // 3
    slots = {
        id(delta): slot_of({1: form_of(delta)}, 2) for lineage in lineages for delta in lineage
    }
    out = y.clone()
    rows = [[slots[id(delta)] for delta in lineage] for lineage in lineages]
    delta_operation.add_deltas(kind, x, out[:, d_out:], rows, d_out=d_out, modules=(1, 1))
    return out


KINDS = [Kind.DELTA_FEW, Kind.DELTA_MANY]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("density", [0.0, 0.05, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(37, 30), (48, 96)], ids=str)
def test_every_form_equals_the_reference_and_keeps_its_bits(
    kind: Kind, dtype: torch.dtype, density: float, shape: tuple[int, int]
) -> None:
    lineage: list[Delta] = [masked(density, dtype, 3, shape), low_rank(shape)]
    x, y = numbers(70, shape[1], seed=1), numbers(70, 3 * shape[0], seed=2)
    whole = add_deltas(kind, x, y, [lineage] * 70)
    expected = y.clone()
    for delta in lineage:
        expected[:, shape[0] : 2 * shape[0]] += product_reference(delta, x)
    torch.testing.assert_close(whole, expected, atol=1e-4, rtol=1e-4)
    for rows in (1, 2, 9, 17, 64):
        alone = add_deltas(kind, x[:rows].clone(), y[:rows], [lineage] * rows)
        assert torch.equal(alone, whole[:rows]), f"{rows} rows"


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    rows=st.lists(st.lists(st.integers(0, 4), max_size=4, unique=True), min_size=1, max_size=9),
)
def test_a_mixed_batch_adds_each_rows_own_lineage(kind: Kind, rows: list[list[int]]) -> None:
    shape = (37, 30)
    deltas: list[Delta] = [
        masked(0.1, torch.float32, 0, shape), masked(0.0, torch.float32, 1, shape),
        masked(1.0, torch.bfloat16, 2, shape), low_rank(shape),
        masked(0.3, torch.float16, 4, shape),
    ]  # fmt: skip
    lineages = [[deltas[i] for i in row] for row in rows]
    x, y = numbers(len(rows), 30, seed=1), numbers(len(rows), 3 * 37, seed=2)
    mixed = add_deltas(kind, x, y, lineages)
    for i, lineage in enumerate(lineages):
        alone = add_deltas(kind, x[i : i + 1].clone(), y[i : i + 1], [lineage])
        assert torch.equal(mixed[i], alone[0]), f"row {i}"


def test_forms_follow_kind_and_density_and_take_four_bytes_a_non_zero() -> None:
    sparse, shape = masked(0.05, torch.bfloat16, 0, (64, 96)), (64, 96)
    form = form_of(sparse)
    assert isinstance(form, SparseForm)
    assert form.nbytes == 4 * sparse.nnz + 4 * 65
    assert isinstance(form_of(masked(0.9, torch.bfloat16, 0, shape)), DenseForm)
    assert isinstance(form_of(low_rank(shape)), LowRankForm)


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (48, 32), (5, 600)], ids=str)
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_a_mask_unpacks_to_the_columns_of_its_csr(shape: tuple[int, int], density: float) -> None:
    delta = masked(density, torch.float32, 1, shape)
    form = sparse_form(delta, load_library(best_set()))
    offsets, columns = delta.csr()
    assert torch.equal(form.offsets, offsets)
    assert torch.equal(form.columns.to(torch.int32), columns)
