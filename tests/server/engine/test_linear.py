"""Linear forms: exactness of int8, closeness of the packed form, bits that ignore batch mates."""

from __future__ import annotations

import pytest
import torch

from decoding import rows_that_differ, torch_threads
from jumplora_server.engine.linear import (
    MIN_ROWS,
    Int8Linear,
    PackedLinear,
    PlainLinear,
    int8_linear_reference,
    make_linear,
    quantise_rows,
)

SHAPES = [(64, 32), (48, 96), (300, 64), (768, 768), (5, 1)]
CPU = torch.device("cpu")


def weights(shape: tuple[int, int]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def inputs(rows: int, width: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(1))


# Of T5-base and T5-large: attention, feed-forward, and a LoRA's two skinny factors.
REAL_SHAPES = [(768, 768), (768, 3072), (1024, 4096), (8, 768), (768, 8)]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("shape", [*SHAPES[:3], *REAL_SHAPES])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_rows_bits_do_not_depend_on_its_batch_mates(
    shape: tuple[int, int], dtype: str, threads: int
) -> None:
    linear = make_linear(weights(shape), dtype, CPU)
    x = inputs(130, shape[1]).to(torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    start = 1 if dtype == "int8" else MIN_ROWS
    counts = (*range(start, 18), 31, 64, 65, 128, 129)
    with torch_threads(threads):
        assert rows_that_differ(linear, x, counts) == []


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 3, 8, 128])
def test_int8_equals_its_slow_reference_exactly(shape: tuple[int, int], rows: int) -> None:
    linear = Int8Linear(weights(shape))
    x = inputs(rows, shape[1])
    assert torch.equal(linear(x), int8_linear_reference(x, linear))


def test_int8_is_close_to_float32_and_an_outlier_row_harms_only_itself() -> None:
    weight, x = weights((64, 128)), inputs(8, 128)
    x[3] *= 1000
    x[3, 0] = 1e6
    exact, approximate = x @ weight.t(), Int8Linear(weight)(x)
    error = (exact - approximate).norm(dim=1) / exact.norm(dim=1)
    assert (error[[0, 1, 2, 4, 5, 6, 7]] < 0.02).all()


def test_packed_equals_plain_up_to_rounding() -> None:
    weight, x = weights((300, 64)), inputs(33, 64)
    torch.testing.assert_close(PackedLinear(weight)(x), PlainLinear(weight)(x))


def test_quantised_rows_use_the_whole_range_and_survive_zeros() -> None:
    x = torch.tensor([[0.0, 0.0], [-4.0, 2.0]])
    scale, values = quantise_rows(x)
    assert values.tolist() == [[0, 0], [-127, 64]]
    assert torch.isfinite(scale).all()
    torch.testing.assert_close(scale[1], torch.tensor([4 / 127]))


def test_nbytes_of_int8_is_a_quarter_of_float32() -> None:
    weight = weights((768, 768))
    assert make_linear(weight, "float32", CPU).nbytes == 768 * 768 * 4
    assert make_linear(weight, "int8", CPU).nbytes == 768 * 768 + 768 * 4
