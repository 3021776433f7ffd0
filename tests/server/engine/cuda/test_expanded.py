"""Expanded modules against their reference and float64, and which prompts are expanded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from device_slots import CPU, DEVICE, MODULE, MODULES, dense_of, low_rank, slot_of, sparse
from jumplora_adapters.delta import Delta, SparseDelta
from jumplora_server.engine.cuda import launch, reference
from jumplora_server.engine.cuda.expanded import (
    EXPAND_FROM,
    EXPANDED_TOKENS,
    PLANES,
    Chunk,
    Scratch,
    make_chunks,
    padded,
)
from jumplora_server.engine.cuda.plan import EncodePlan, make_levels
from jumplora_server.engine.cuda.slot import DeviceAdapter

SHAPE = (37, 70)  # neither is a multiple of a block
NUMBER = MODULES[MODULE]
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
TYPES = {"float32": F32, "float16": F16, "bfloat16": BF16}


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Up to what summing in another order and one rounding to `dtype` make."""
    atol, rtol = (1e-4, 1e-5) if dtype == F32 else (1e-2, 2.0**-7)
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)


def chunk_of(
    work: list[tuple[DeviceAdapter, int, int]], planes: int, capacity: int, device: torch.device
) -> list[Chunk]:
    addressed = [(slot.address, start, stop) for slot, start, stop in work]
    return [
        Chunk(torch.tensor(slots, device=device), torch.tensor(tiles, device=device), planes)
        for slots, tiles in make_chunks(addressed, capacity)
    ]


def poisoned() -> Scratch:
    """A scratch that holds NaN, so that whatever is not written shows."""
    scratch = Scratch()
    everything = Chunk(torch.zeros(9), torch.zeros(0, 3), 3)
    scratch.matrices(everything, SHAPE, DEVICE).fill_(0x7FC0)
    return scratch


@pytest.mark.parametrize("values", TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])
def test_tiles_of_many_slots(dtype: torch.dtype, values: torch.dtype) -> None:
    one_row = torch.zeros(SHAPE)
    one_row[5] = 1.25
    deltas = [
        sparse(SHAPE, 0.05, dtype=values, seed=2),
        sparse(SHAPE, 0.4, dtype=values, seed=3),
        sparse(SHAPE, 0.0, dtype=values),
        SparseDelta.from_dense(one_row, values),
    ]
    # More than a tile, two spans of one slot, one token, neighbours; tokens 140 to 149 in none.
    spans = [(0, 0, 140), (1, 150, 151), (2, 151, 155), (3, 155, 170), (0, 170, 200)]
    x = torch.randn(200, SHAPE[1], generator=torch.Generator().manual_seed(9)).to(dtype)
    wide = torch.randn(200, 2 * SHAPE[0]).to(dtype)
    results = []
    for device, add in ((DEVICE, launch.add_expanded), (CPU, reference.add_expanded)):
        slots = [slot_of(delta, device=device) for delta in deltas]
        work = [(slots[i], start, stop) for i, start, stop in spans]
        y = wide.clone().to(device)
        scratch = poisoned()
        for chunk in chunk_of(work, PLANES[values], 3, device):
            add(chunk, NUMBER, x.to(device), y[:, SHAPE[0] :], scratch)
        results.append(y.cpu())
    assert_close(results[0], results[1], dtype)
    expected = wide.double()
    for i, start, stop in spans:
        update = x[start:stop].double() @ dense_of(deltas[i], SHAPE).t()
        expected[start:stop, SHAPE[0] :] += update
    assert_close(results[0].double(), expected, dtype)
    assert torch.equal(results[0][140:150], wide[140:150])
    assert torch.equal(results[0][:, : SHAPE[0]], wide[:, : SHAPE[0]])


@pytest.mark.parametrize("values", TYPES.values(), ids=TYPES)
def test_an_expanded_matrix_is_the_file_s_to_the_bit(values: torch.dtype) -> None:
    """Pieces lose nothing: unit vectors read the matrix out, also numbers of far apart sizes."""
    matrix = torch.randn(SHAPE) * (torch.rand(SHAPE) < 0.3)
    matrix[0, :5] = torch.tensor([2.0**-14, 2.0**-24, 65504.0, -1 - 2.0**-10, 1 / 3])
    delta = SparseDelta.from_dense(matrix, values)
    slot = slot_of(delta)
    y = torch.zeros(SHAPE[1], SHAPE[0], device=DEVICE)
    (chunk,) = chunk_of([(slot, 0, SHAPE[1])], PLANES[values], 1, DEVICE)
    launch.add_expanded(chunk, NUMBER, torch.eye(SHAPE[1], device=DEVICE), y, poisoned())
    # Three pieces of a float32 fill a sum, which a tensor core may cut by a bit.
    slack = 2.0**-23 if values == F32 and DEVICE.type == "cuda" else 0.0
    torch.testing.assert_close(y.cpu().t(), delta.to_dense(), atol=0, rtol=slack)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])
def test_a_tokens_bits_do_not_depend_on_its_mates(dtype: torch.dtype) -> None:
    slots = [slot_of(sparse(SHAPE, 0.2, dtype=F16, seed=seed)) for seed in range(3)]
    x = torch.randn(170, SHAPE[1], generator=torch.Generator().manual_seed(3)).to(DEVICE, dtype)
    together = torch.ones(170, SHAPE[0], device=DEVICE, dtype=dtype)
    spans = [(slots[0], 0, 10), (slots[1], 10, 160), (slots[2], 160, 170)]
    (chunk,) = chunk_of(spans, 2, 3, DEVICE)
    launch.add_expanded(chunk, NUMBER, x, together, poisoned())
    for token in (10, 77, 159):
        alone = torch.ones(1, SHAPE[0], device=DEVICE, dtype=dtype)
        (chunk,) = chunk_of([(slots[1], 0, 1)], 2, 1, DEVICE)
        launch.add_expanded(chunk, NUMBER, x[token : token + 1].contiguous(), alone, poisoned())
        assert torch.equal(alone[0], together[token])


def test_chunks_hold_as_many_slots_as_fit_and_share_an_expansion() -> None:
    work = [(11, 0, 300), (22, 300, 310), (11, 310, 320), (33, 320, 330), (22, 330, 331)]
    first, second = make_chunks(work, 2)
    assert first == (
        [11, 22],
        [(0, 0, 128), (0, 128, 256), (0, 256, 300), (1, 300, 310), (0, 310, 320)],
    )
    assert second == ([33, 22], [(0, 320, 330), (1, 330, 331)])
    assert list(make_chunks([], 2)) == []


def test_a_scratch_is_bounded_but_holds_one_matrix() -> None:
    assert padded((129, 64)) == (256, 64)
    assert Scratch(2 * 2 * 256 * 64).capacity(1, (129, 64)) == 2
    assert Scratch(2 * 2 * 256 * 64).capacity(2, (129, 64)) == 1
    assert Scratch(1).capacity(3, (129, 64)) == 1
    assert Scratch().capacity(1, (1024, 1024)) == 64


def test_which_prompts_are_expanded_depends_on_each_prompt_alone() -> None:
    packed, rank, dense = (
        slot_of(delta) for delta in (sparse(SHAPE, 0.1), low_rank(SHAPE), sparse(SHAPE, 0.9))
    )
    long, short = EXPAND_FROM, EXPAND_FROM - 1
    lineages, spans, at = [], [], 0
    for slot, size in (
        (packed, long), (packed, 3 * EXPANDED_TOKENS), (packed, short), (packed, short),
        (packed, long), (rank, long), (dense, long), (slot_of(None), long),
    ):  # fmt: skip
        lineages.append((slot,))
        spans.append((at, at + size))
        at += size
    (level,) = make_levels(lineages, spans, Scratch(), CPU)
    work = level.work(MODULE, SHAPE)
    assert level.work(MODULE, SHAPE) is work
    assert work.picked is not None
    picked = {tuple(tile) for tile in work.picked[:, 1:].tolist()}
    assert picked == {(416, 478)}
    (chunk,) = work.chunks
    assert chunk.planes == PLANES[F32]
    assert chunk.slots.tolist() == [packed.address]
    assert chunk.tiles.tolist() == [
        [0, 0, 128], [0, 128, 256], [0, 256, 384], [0, 384, 416], [0, 478, 510],
    ]  # fmt: skip
    assert [span.adapter for span in work.library] == [rank, dense]


def test_a_plan_adds_every_form_once() -> None:
    """Long and short prompts, chains, forms of all kinds and a scratch of one matrix."""
    deltas: list[Delta | None] = [
        sparse(SHAPE, 0.1, dtype=BF16, seed=1), sparse(SHAPE, 0.2, dtype=F16, seed=2),
        low_rank(SHAPE), sparse(SHAPE, 0.9, seed=3), None,
    ]  # fmt: skip
    slots = [slot_of(delta) for delta in deltas]
    chains = [(0,), (0, 1), (2, 1), (), (3, 4, 0), (1,)]
    sizes = [40, 70, 33, 40, 50, 7]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    spans = [(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    levels = make_levels(
        [tuple(slots[i] for i in chain) for chain in chains], spans, Scratch(1), DEVICE
    )
    x = torch.randn(sum(sizes), SHAPE[1], generator=torch.Generator().manual_seed(2))
    y = torch.randn(sum(sizes), SHAPE[0])
    expected = y.double()
    for chain, (start, stop) in zip(chains, spans, strict=True):
        for i in chain:
            expected[start:stop] += x[start:stop].double() @ dense_of(deltas[i], SHAPE).t()
    y = y.to(DEVICE)
    EncodePlan(levels, MODULES, launch.TRITON, Scratch(1)).add(MODULE, x.to(DEVICE), y)
    assert_close(y.cpu().double(), expected, F32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("values", TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])
def test_a_large_models_modules_with_fresh_inputs(dtype: torch.dtype, values: torch.dtype) -> None:
    """32 slots of 1024 x 1024 in chunks of what fits, prompts of 1 to 200 tokens."""
    shape, seed = (1024, 1024), int(torch.seed() % 2**31)
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 200, (32,), generator=generator).tolist()
    deltas = [sparse(shape, 0.124, dtype=values, seed=seed + i) for i in range(32)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    slots = [slot_of(delta) for delta in deltas]
    work = [(s, at, at + n) for s, at, n in zip(slots, starts, sizes, strict=True)]
    x = torch.randn(sum(sizes), shape[1], device=DEVICE).to(dtype)
    y = torch.randn(sum(sizes), shape[0], device=DEVICE).to(dtype)
    expected = y.double()
    for delta, (_, start, stop) in zip(deltas, work, strict=True):
        matrix = delta.to_dense().to(DEVICE).double()
        expected[start:stop] += x[start:stop].double() @ matrix.t()
    scratch = Scratch(48 << 20)
    planes = PLANES[values]
    for chunk in chunk_of(work, planes, scratch.capacity(planes, shape), DEVICE):
        launch.add_expanded(chunk, NUMBER, x, y, scratch)
    error = (y.double() - expected).norm() / expected.norm()
    assert error < (1e-5 if dtype == F32 else 4e-3), f"relative error {error:.2e}, seed {seed}"
