"""Attention in torch against softmax in float64, one prompt and one row at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jumplora_server.engine.attention import (
    attend_prompts,
    attend_rows,
    group_prompts,
    masked_bias,
)
from jumplora_server.engine.cache import round_up

CPU = torch.device("cpu")
HEADS, WIDTH = 3, 5


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def slowly(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """[.., queries, width] over [.., keys, width], in float64."""
    scores = q.double() @ k.double().transpose(-1, -2) + bias.double()
    return (scores.softmax(-1) @ v.double()).float()


@given(st.lists(st.integers(1, 150), min_size=1, max_size=8))
def test_groups_hold_every_token_once_and_pad_with_a_prompts_own(lengths: list[int]) -> None:
    spans, start = [], 0
    for length in lengths:
        spans.append((start, start + length))
        start += length
    places = [7 + i for i in range(len(lengths))]
    groups = group_prompts(spans, places, CPU)
    assert [group.length for group in groups] == sorted({round_up(length) for length in lengths})
    assert sorted(int(token) for group in groups for token in group.packed) == list(range(start))
    assert sorted(int(place) for group in groups for place in group.places) == places
    for group in groups:
        assert torch.equal(group.index.flatten()[group.padded], group.packed)
        for place, index in zip(group.places.tolist(), group.index.tolist(), strict=True):
            first, stop = spans[place - 7]
            assert index[: stop - first] == list(range(first, stop))
            assert set(index[stop - first :]) <= {first}


def test_a_prompt_attends_to_its_own_tokens_alone() -> None:
    lengths = (5, 64, 33)
    group = group_prompts([(0, 5), (5, 69), (69, 102)], [0, 1, 2], CPU)[0]
    bias = masked_bias(numbers(HEADS, 64, 64, seed=4), group)
    q, k, v = (numbers(3, HEADS, 64, WIDTH, seed=seed) for seed in (1, 2, 3))
    read = attend_prompts(q, k, v, bias)
    for i, length in enumerate(lengths):
        wanted = slowly(
            q[i, :, :length], k[i, :, :length], v[i, :, :length],
            numbers(HEADS, 64, 64, seed=4)[:, :length, :length],
        )  # fmt: skip
        torch.testing.assert_close(read[i, :, :length], wanted, atol=1e-5, rtol=1e-5)


def test_prompts_of_whole_groups_need_no_mask() -> None:
    group = group_prompts([(0, 64), (64, 128)], [0, 1], CPU)[0]
    bias = numbers(HEADS, 64, 64, seed=1)
    assert group.outside is None
    assert torch.equal(masked_bias(bias, group), bias[None])


@pytest.mark.parametrize("behind", [1e3, float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("length", [1, 17, 64])
def test_a_row_attends_to_the_keys_that_its_bias_lets_through(length: int, behind: float) -> None:
    rows = 4
    q = numbers(rows, HEADS, WIDTH, seed=1)
    k, v = (numbers(rows, HEADS, 128, WIDTH, seed=seed) for seed in (2, 3))
    bias = numbers(rows, HEADS, 64, seed=4)
    bias[:, :, length:] = torch.finfo(torch.float32).min
    k[:, :, length:], v[:, :, length:] = behind, 1e3  # of another sequence, behind the mask
    read = attend_rows(q, k, v, bias).view(rows, HEADS, WIDTH)
    wanted = slowly(q[:, :, None], k[:, :, :length], v[:, :, :length], bias[:, :, None, :length])
    torch.testing.assert_close(read, wanted[:, :, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", range(1, 10))
def test_a_rows_bits_do_not_depend_on_longer_ones(width: int, dtype: torch.dtype) -> None:
    """Keys behind a mask up to the next multiples of LENGTH_STEP change nothing, at any width."""
    rows, length = 4, 50
    q = numbers(rows, HEADS, width, seed=1).to(dtype)
    k, v = (numbers(rows, HEADS, 512, width, seed=seed).to(dtype) for seed in (2, 3))
    bias = numbers(rows, HEADS, 512, seed=4).to(dtype)
    bias[:, :, length:] = torch.finfo(dtype).min
    alone = attend_rows(q, k, v, bias[:, :, : round_up(length)])
    for longer in (128, 192, 512):
        assert torch.equal(attend_rows(q, k, v, bias[:, :, :longer]), alone), f"{longer} keys"


@pytest.mark.parametrize("width", [3, 8, 20, 64])
@pytest.mark.parametrize("rows", [4, 9])
def test_a_rows_bits_do_not_depend_on_where_its_keys_lie(rows: int, width: int) -> None:
    """A view of a cache has another stride than a copy of its places (SourceCache.read)."""
    q, bias = numbers(rows, HEADS, width, seed=1), numbers(rows, HEADS, 128, seed=4)
    k, v = (numbers(rows, HEADS, 320, width, seed=seed)[:, :, :128] for seed in (2, 3))
    assert torch.equal(
        attend_rows(q, k, v, bias), attend_rows(q, k.contiguous(), v.contiguous(), bias)
    )
