"""A decode step's attention against its reference in float64; what is past a row's end is NaN."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from device_slots import CPU, DEVICE
from jumplora_server.engine.cuda import launch, reference
from jumplora_server.engine.cuda.plan import OwnStep

BF16, F32 = torch.bfloat16, torch.float32
HEADS, WIDTH = 3, 24  # no power of two
LENGTHS = [0, 1, 2, 31, 32, 33, 64, 65, 100]


def numbers(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def cache_of(lengths: list[int], room: int, dtype: torch.dtype, seed: int) -> Tensor:
    """[rows, HEADS, room, WIDTH], valid for each row's length, NaN behind it."""
    cache = torch.full((len(lengths), HEADS, room, WIDTH), torch.nan, dtype=dtype)
    for row, length in enumerate(lengths):
        cache[row, :, :length] = numbers(HEADS, length, WIDTH, dtype=dtype, seed=seed + row)
    return cache


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    atol, rtol = (1e-5, 1e-5) if dtype == F32 else (1e-2, 2.0**-7)
    torch.testing.assert_close(actual.cpu(), expected.cpu(), atol=atol, rtol=rtol)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])
def test_own_attention_appends_and_reads_what_is_there(dtype: torch.dtype) -> None:
    room = 128
    qkv = numbers(len(LENGTHS), 3 * HEADS * WIDTH, dtype=dtype, seed=1)
    keys = cache_of(LENGTHS, room, dtype, 100)
    values = cache_of(LENGTHS, room, dtype, 200)
    bias = numbers(HEADS, room, dtype=F32, seed=2)
    is_live = torch.tensor([1, 1, 0, 1, 1, 0, 1, 1, 1], dtype=torch.int32)
    step = OwnStep(torch.tensor(LENGTHS), is_live)
    found = []
    for device, attend in ((DEVICE, launch.attend_own), (CPU, reference.attend_own)):
        k, v = keys.clone().to(device), values.clone().to(device)
        there = OwnStep(step.positions.to(device), step.is_live.to(device))
        read = attend(qkv.to(device), k, v, there, bias.to(device))
        found.append((read.cpu(), k.cpu(), v.cpu()))
    assert_close(found[0][0], found[1][0], dtype)
    for ours, theirs, before in zip(*(each[1:] for each in found), (keys, values), strict=True):
        assert_same(ours, theirs)
        assert_same(ours[[2, 5]], before[[2, 5]])  # dead rows: as they were
        assert not torch.isnan(ours[0, :, 0]).any()


@pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])
def test_source_attention_reads_the_prompt_and_no_more(dtype: torch.dtype) -> None:
    q = numbers(len(LENGTHS), HEADS * WIDTH, dtype=dtype, seed=1)
    keys, values = cache_of(LENGTHS, 128, dtype, 100), cache_of(LENGTHS, 128, dtype, 200)
    lengths = torch.tensor([*LENGTHS, 77])  # the cache may have more places than a step has rows
    places = torch.tensor([0, *torch.randperm(len(LENGTHS) - 1).tolist()])
    places[1:] += 1
    places[-1] = places[1]  # two rows of one prompt
    given = (q, keys, values, places, lengths)
    found = launch.attend_source(*(tensor.to(DEVICE) for tensor in given))
    assert_close(found, reference.attend_source(*given), dtype)
    assert not found[0].any(), "a place without a prompt"
    for row, place in enumerate(places[1:].tolist(), start=1):
        alone = reference.attend_source(
            q[row : row + 1], keys[[place]], values[[place]], torch.tensor([0]), lengths[[place]]
        )
        assert_close(found[row : row + 1], alone, dtype)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])
def test_a_rows_bits_depend_on_neither_mates_nor_room(dtype: torch.dtype) -> None:
    row = 7  # of 65 keys: more than a block
    q = numbers(len(LENGTHS), 3 * HEADS * WIDTH, dtype=dtype, seed=1).to(DEVICE)
    together: list[Tensor] = []
    alone: list[Tensor] = []
    for room, rows, into in ((128, slice(None), together), (192, slice(row, row + 1), alone)):
        keys = cache_of(LENGTHS, room, dtype, 100)[rows].contiguous().to(DEVICE)
        values = cache_of(LENGTHS, room, dtype, 200)[rows].contiguous().to(DEVICE)
        lengths = torch.tensor(LENGTHS, device=DEVICE)[rows].contiguous()
        bias = numbers(HEADS, 192, dtype=F32, seed=2)[:, :room].contiguous().to(DEVICE)
        part = q[rows]
        first, places = part[:, : HEADS * WIDTH].contiguous(), torch.arange(len(lengths))
        into.append(launch.attend_source(first, keys, values, places.to(DEVICE), lengths))
        step = OwnStep(lengths, torch.ones(len(lengths), dtype=torch.int32, device=DEVICE))
        into.append(launch.attend_own(part.contiguous(), keys, values, step, bias))
    for mine, whole in zip(alone, together, strict=True):
        assert torch.equal(mine[0], whole[row])


def test_scores_of_any_size_do_not_overflow() -> None:
    q = torch.full((1, HEADS * WIDTH), 300.0)
    keys = torch.full((1, HEADS, 64, WIDTH), 300.0)
    keys[:, :, ::2] *= -1
    values = numbers(1, HEADS, 64, WIDTH, dtype=F32, seed=4)
    lengths = torch.tensor([40])
    given = (q, keys, values, torch.tensor([0]), lengths)
    found = launch.attend_source(*(tensor.to(DEVICE) for tensor in given))
    assert_close(found, reference.attend_source(*given), F32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])
def test_a_large_models_attention_with_fresh_inputs(dtype: torch.dtype) -> None:
    """64 rows of 16 heads of 64, prompts of up to 512 tokens, answers of up to 128."""
    rows, heads, width, seed = 64, 16, 64, int(torch.seed() % 2**31)
    generator = torch.Generator().manual_seed(seed)
    q, keys, values, own_k, own_v = (
        torch.randn(size, generator=generator).to(dtype)
        for size in (
            (rows, 3 * heads * width), *[(rows, heads, 512, width)] * 2,
            *[(rows, heads, 128, width)] * 2,
        )
    )  # fmt: skip
    lengths = torch.randint(1, 513, (rows,), generator=generator)
    positions = torch.randint(0, 128, (rows,), generator=generator)
    bias = torch.randn(heads, 128, generator=generator)
    live = torch.ones(rows, dtype=torch.int32)
    first = q[:, : heads * width].contiguous()
    places = torch.randint(0, rows, (rows,), generator=generator)
    source = reference.attend_source(first, keys, values, places, lengths)
    own = reference.attend_own(q, own_k.clone(), own_v.clone(), OwnStep(positions, live), bias)
    cuda = torch.device("cuda")
    found_source = launch.attend_source(
        first.to(cuda), keys.to(cuda), values.to(cuda), places.to(cuda), lengths.to(cuda)
    )
    step = OwnStep(positions.to(cuda), live.to(cuda))
    found_own = launch.attend_own(q.to(cuda), own_k.to(cuda), own_v.to(cuda), step, bias.to(cuda))
    for found, wanted in ((found_source, source), (found_own, own)):
        wanted = wanted.double()
        error = (found.cpu().double() - wanted).norm() / wanted.norm()
        assert error < (1e-5 if dtype == F32 else 4e-3), f"relative error {error:.2e}, seed {seed}"
