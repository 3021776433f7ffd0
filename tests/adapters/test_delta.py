"""Deltas against dense matrices, which are the oracle for everything here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from jumplora_adapters.delta import (
    CombinedDelta,
    Delta,
    LowRankDelta,
    SparseDelta,
    count_bits,
    low_rank_part,
    mask_digest_of,
    pack_mask,
    sparse_part,
    sum_deltas,
)
from jumplora_adapters.errors import FormatError

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@st.composite
def matrices(draw: st.DrawFn, shape: tuple[int, int] | None = None) -> Tensor:
    """Float32 matrices of awkward sizes, some entries exactly zero, values over a wide range."""
    rows, columns = shape or (draw(st.integers(1, 17)), draw(st.integers(1, 17)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    values = torch.randn(rows, columns, generator=generator)
    values *= 10.0 ** draw(st.integers(-9, 3))
    return values * (torch.rand(rows, columns, generator=generator) < draw(st.floats(0, 1)))


@given(dense=matrices(), dtype=st.sampled_from(DTYPES))
def test_round_trip_is_exact(dense: Tensor, dtype: torch.dtype) -> None:
    delta = SparseDelta.from_dense(dense, dtype)
    rounded = dense.to(dtype)
    assert torch.equal(delta.to_dense(), rounded.float())
    assert torch.equal(delta.to_dense(dtype), rounded)
    assert torch.equal(delta.support(), rounded != 0)
    assert torch.equal(delta.values, rounded[rounded != 0])
    again = SparseDelta.from_dense(delta.to_dense(), dtype)
    assert again.digest() == delta.digest()
    delta.check()


@given(dense=matrices(), dtype=st.sampled_from(DTYPES))
def test_sizes_are_those_of_the_dense_matrix(dense: Tensor, dtype: torch.dtype) -> None:
    delta = SparseDelta.from_dense(dense, dtype)
    kept = int((dense.to(dtype) != 0).sum())
    assert delta.nnz == kept == count_bits(delta.mask)
    assert delta.density == kept / dense.numel()
    assert delta.nbytes == -(-dense.numel() // 8) + kept * dtype.itemsize


@given(dense=matrices())
def test_csr_is_that_of_torch(dense: Tensor) -> None:
    delta = SparseDelta.from_dense(dense)
    offsets, columns = delta.csr()
    rows = torch.repeat_interleave(torch.arange(dense.shape[0]), offsets.diff())
    assert torch.equal(torch.stack([rows, columns]), dense.nonzero().T)
    assert offsets.dtype == columns.dtype == torch.int32
    assert offsets.shape == (dense.shape[0] + 1,)


def test_mask_bits_are_row_major_and_least_significant_first() -> None:
    dense = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0], [0.0, 3.0, 4.0]])
    delta = SparseDelta.from_dense(dense)
    assert delta.mask.tolist() == [0b1000_1010, 0b0000_0001]
    assert delta.values.tolist() == [1.0, 2.0, 3.0, 4.0]


@given(data=st.data(), count=st.integers(1, 4), dtype=st.sampled_from(DTYPES))
def test_sum_is_the_dense_sum(data: st.DataObject, count: int, dtype: torch.dtype) -> None:
    denses = [data.draw(matrices(shape=(5, 7))) for _ in range(count)]
    total = torch.zeros(5, 7)
    for dense in denses:
        total = total + dense
    summed = sum_deltas([SparseDelta.from_dense(dense) for dense in denses], dtype)
    assert torch.equal(summed.to_dense(dtype), total.to(dtype))


def test_sum_takes_low_rank_deltas_and_drops_what_cancels() -> None:
    low_rank = LowRankDelta(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0], [0.0]]))
    opposite = SparseDelta.from_dense(torch.tensor([[-2.0, 5.0], [0.0, 0.0]]))
    summed = sum_deltas([low_rank, opposite])
    assert summed.to_dense().tolist() == [[0.0, 5.0], [0.0, 0.0]]
    assert summed.nnz == 1


@pytest.mark.parametrize("shapes", [[], [(2, 3), (3, 2)]], ids=["none", "differing"])
def test_sum_needs_one_shape(shapes: list[tuple[int, int]]) -> None:
    with pytest.raises(FormatError) as caught:
        sum_deltas([SparseDelta.from_dense(torch.ones(shape)) for shape in shapes])
    assert caught.value.code == "shape"


@given(
    seed=st.integers(0, 999),
    tau=st.floats(0, 2, width=32),
    scale=st.sampled_from([4.0, -0.5, 1e-3]),
    dtype=st.sampled_from(DTYPES),
)
def test_factors_are_gated_as_the_paper_has_it(
    seed: int, tau: float, scale: float, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    factor_a = torch.randn(3, 6, generator=generator)
    factor_b = torch.randn(4, 3, generator=generator)
    product = factor_b @ factor_a
    expected = torch.zeros(4, 6)
    for row in range(4):
        for column in range(6):
            if abs(float(product[row, column])) > tau:
                expected[row, column] = scale * product[row, column]
    delta = SparseDelta.from_factors(factor_a, factor_b, tau, scale, dtype)
    assert torch.equal(delta.to_dense(), expected.to(dtype).float())


def test_gate_is_strict_and_comes_before_the_scale() -> None:
    factor_a = torch.tensor([[1.0, 0.5, -0.5, 0.25]])
    delta = SparseDelta.from_factors(factor_a, torch.ones(1, 1), tau=0.5, scale=100.0)
    assert delta.to_dense().tolist() == [[100.0, 0.0, 0.0, 0.0]]


def test_entries_that_round_to_zero_leave_the_support() -> None:
    factor_a = torch.tensor([[1.0, 1e-6]])
    delta = SparseDelta.from_factors(factor_a, torch.ones(1, 1), 1e-9, 1e-4, torch.float16)
    assert delta.support().tolist() == [[True, False]]
    delta.check()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e6], ids=["nan", "inf", "overflow"])
def test_values_must_be_finite_in_their_type(bad: float) -> None:
    dense = torch.tensor([[1.0, bad]])
    with pytest.raises(FormatError) as caught:
        SparseDelta.from_dense(dense, torch.float16)
    assert caught.value.code == "nonfinite"


def test_factors_with_nan_are_refused_even_where_the_gate_would_hide_it() -> None:
    with pytest.raises(FormatError) as caught:
        SparseDelta.from_factors(torch.tensor([[float("nan")]]), torch.ones(1, 1), 1.0, 1.0)
    assert caught.value.code == "nonfinite"


def test_other_types_of_value_are_refused() -> None:
    with pytest.raises(FormatError, match="float64") as caught:
        SparseDelta.from_dense(torch.ones(2, 2), torch.float64)
    assert caught.value.code == "dtype"


def test_digests_tell_values_masks_and_shapes_apart() -> None:
    one = SparseDelta.from_dense(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    other_value = SparseDelta.from_dense(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    other_shape = SparseDelta.from_dense(torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
    other_type = SparseDelta.from_dense(one.to_dense(), torch.bfloat16)
    digests = [delta.digest() for delta in (one, other_value, other_shape, other_type)]
    assert len(set(digests)) == 4
    assert one.mask_digest() == other_value.mask_digest() == other_type.mask_digest()
    assert one.mask_digest() != other_shape.mask_digest()
    assert mask_digest_of({"a": one, "b": one}) == mask_digest_of({"b": other_value, "a": one})
    assert mask_digest_of({"a": one}) != mask_digest_of({"b": one})


def test_mask_digest_is_the_documented_one() -> None:
    delta = SparseDelta.from_dense(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    module = hashlib.sha256(b"mask 2 2\n" + bytes([0b1001])).hexdigest()
    assert delta.mask_digest() == module
    assert mask_digest_of({"m": delta}) == hashlib.sha256(f"m {module}\n".encode()).hexdigest()


MASK = pack_mask(torch.tensor([[True, False, True], [False, False, True]]))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        pytest.param(
            lambda: SparseDelta((2, 3), MASK, torch.ones(2)), "popcount", id="too few values"
        ),
        pytest.param(
            lambda: SparseDelta((2, 3), MASK, torch.ones(4)), "popcount", id="too many values"
        ),
        pytest.param(
            lambda: SparseDelta((2, 3), MASK | 0x40, torch.ones(4)), "popcount", id="padding"
        ),
        pytest.param(
            lambda: SparseDelta((2, 3), MASK, torch.tensor([1.0, 0.0, 1.0])), "popcount", id="zero"
        ),
        pytest.param(lambda: SparseDelta((3, 3), MASK, torch.ones(3)), "shape", id="short mask"),
        pytest.param(
            lambda: SparseDelta((2, 3), MASK, torch.ones(3, 1)), "shape", id="values in two rows"
        ),
        pytest.param(
            lambda: SparseDelta((2, 3), MASK.float(), torch.ones(3)), "dtype", id="float mask"
        ),
        pytest.param(
            lambda: SparseDelta((2, 3), MASK, torch.ones(3).double()), "dtype", id="double values"
        ),
        pytest.param(
            lambda: SparseDelta((2, 3), MASK, torch.tensor([1.0, float("nan"), 1.0])),
            "nonfinite",
            id="nan",
        ),
        pytest.param(
            lambda: LowRankDelta(torch.ones(2, 3), torch.ones(3, 1)), "shape", id="ranks differ"
        ),
        pytest.param(
            lambda: LowRankDelta(torch.ones(2, 3).int(), torch.ones(3, 2)), "dtype", id="int factor"
        ),
        pytest.param(
            lambda: LowRankDelta(torch.full((2, 3), float("inf")), torch.ones(3, 2)),
            "nonfinite",
            id="infinite factor",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    make: Callable[[], SparseDelta | LowRankDelta], code: str
) -> None:
    with pytest.raises(FormatError) as caught:
        make().check()
    assert caught.value.code == code


@given(seed=st.integers(0, 999), dtype=st.sampled_from(DTYPES))
def test_low_rank_is_its_product(seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    factor_a = torch.randn(2, 5, generator=generator).to(dtype)
    factor_b = torch.randn(3, 2, generator=generator).to(dtype)
    delta = LowRankDelta(factor_a, factor_b)
    assert torch.equal(delta.to_dense(), factor_b.float() @ factor_a.float())
    assert (delta.shape, delta.rank, delta.nnz, delta.density) == ((3, 5), 2, 16, 1.0)
    assert delta.nbytes == 16 * dtype.itemsize
    delta.check()
    assert delta.digest() != LowRankDelta(factor_a, -factor_b).digest()


@given(dense=matrices((3, 5)), seed=st.integers(0, 999), dtype=st.sampled_from(DTYPES))
def test_combined_is_the_sum_of_its_parts(dense: Tensor, seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    sparse = SparseDelta.from_dense(dense, torch.float32)
    low_rank = LowRankDelta(
        torch.randn(2, 5, generator=generator).to(dtype),
        torch.randn(3, 2, generator=generator).to(dtype),
    )
    delta = CombinedDelta(sparse, low_rank)
    delta.check()
    assert torch.equal(delta.to_dense(), sparse.to_dense() + low_rank.to_dense())
    assert delta.to_dense(torch.float16).dtype == torch.float16
    assert (delta.shape, delta.density) == ((3, 5), 1.0)
    assert delta.nnz == sparse.nnz + low_rank.nnz
    assert delta.nbytes == sparse.nbytes + low_rank.nbytes
    assert (sparse_part(delta), low_rank_part(delta)) == (sparse, low_rank)
    assert (sparse_part(sparse), low_rank_part(sparse)) == (sparse, None)
    assert (sparse_part(low_rank), low_rank_part(low_rank)) == (None, low_rank)
    turned = LowRankDelta(low_rank.A, -low_rank.B)
    assert delta.digest() == CombinedDelta(sparse, low_rank).digest()
    assert delta.digest() != CombinedDelta(sparse, turned).digest()
    total = sum_deltas([sparse, delta])
    assert torch.equal(total.to_dense(), sparse.to_dense() + delta.to_dense())


@pytest.mark.parametrize(
    ("low_rank", "code"),
    [
        (LowRankDelta(torch.ones(1, 4), torch.ones(3, 1)), "shape"),
        (LowRankDelta(torch.ones(1, 5), torch.ones(2, 1)), "shape"),
        (LowRankDelta(torch.full((1, 5), torch.inf), torch.ones(3, 1)), "nonfinite"),
    ],
    ids=["columns", "rows", "infinity"],
)
def test_parts_of_a_sum_must_fit(low_rank: LowRankDelta, code: str) -> None:
    with pytest.raises(FormatError) as caught:
        CombinedDelta(SparseDelta.from_dense(torch.ones(3, 5)), low_rank).check()
    assert caught.value.code == code


@given(content=st.binary(min_size=1, max_size=64))
def test_bits_are_counted(content: bytes) -> None:
    mask = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    assert count_bits(mask) == int.from_bytes(content, "little").bit_count()


@pytest.mark.parametrize(
    ("delta", "changes"),
    [
        pytest.param(LowRankDelta(torch.ones(2, 3), torch.ones(3, 2)), True, id="factors"),
        pytest.param(LowRankDelta(torch.ones(2, 3), torch.zeros(3, 2)), False, id="B is zero"),
        pytest.param(LowRankDelta(torch.zeros(2, 3), torch.ones(3, 2)), False, id="A is zero"),
        pytest.param(
            LowRankDelta(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0, 1.0]])),
            False,
            id="zeros meet",
        ),
        pytest.param(SparseDelta.from_dense(torch.eye(3)), True, id="sparse"),
        pytest.param(SparseDelta.from_dense(torch.zeros(3, 3)), False, id="empty"),
        *(
            pytest.param(
                CombinedDelta(
                    SparseDelta.from_dense(torch.eye(3) * first),
                    LowRankDelta(torch.ones(1, 3), torch.ones(3, 1) * second),
                ),
                bool(first or second),
                id=f"both, {first} and {second}",
            )
            for first in (0, 1)
            for second in (0, 1)
        ),
    ],
)
def test_a_delta_changes_nothing_where_its_matrix_is_zero(delta: Delta, changes: bool) -> None:
    assert delta.changes_anything == changes == bool(delta.to_dense().any())
