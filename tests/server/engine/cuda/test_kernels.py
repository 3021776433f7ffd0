"""The kernels against their references and the dense product, interpreted where there is no GPU.

The references read slots in the host's memory, so they get slots of their own.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from device_slots import (
    CPU,
    DEVICE,
    MODULE,
    MODULES,
    dense_of,
    factor_pair,
    low_rank,
    slot_of,
    sparse,
)
from jumplora_adapters.delta import Delta, SparseDelta
from jumplora_server.engine.cuda import launch, reference
from jumplora_server.engine.cuda.factored import GatedFactors, product_in_order, try_factor
from jumplora_server.engine.cuda.plan import TOKENS
from jumplora_server.engine.cuda.slot import DeviceAdapter

SHAPE = (37, 70)  # neither is a multiple of a block
NUMBER = MODULES[MODULE]
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32

Made = tuple[Delta | None, GatedFactors | None]


def gated(dtype: torch.dtype, seed: int = 0) -> Made:
    """A masked delta with its factored form."""
    a, b = factor_pair(SHAPE, 3, seed)
    delta = SparseDelta.from_factors(a, b, 1.5, 0.5, dtype)
    factors = try_factor(delta, a, b, tau=1.5, scale=0.5, device=CPU)
    assert factors is not None
    return delta, factors


def deltas() -> dict[str, Made]:
    full = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) + 1
    one_row = torch.zeros(SHAPE)
    one_row[5] = 1.25
    return {
        "no such module": (None, None),
        "empty": (sparse(SHAPE, 0.0), None),
        "one full row, others empty": (SparseDelta.from_dense(one_row), None),
        "float32 at 5 %": (sparse(SHAPE, 0.05, seed=2), None),
        "float16 at 12 %": (sparse(SHAPE, 0.12, dtype=F16, seed=3), None),
        "bfloat16 at 40 %": (sparse(SHAPE, 0.4, dtype=BF16, seed=4), None),
        "full, dense": (SparseDelta.from_dense(full, F16), None),
        "low rank": (low_rank(SHAPE), None),
        "factored, float32": gated(F32),
        "factored, float16": gated(F16),
        "factored, bfloat16": gated(BF16),
    }


def activations(rows: int, dtype: torch.dtype, seed: int = 9) -> Tensor:
    numbers = torch.randn(rows, SHAPE[1], generator=torch.Generator().manual_seed(seed))
    return numbers.to(dtype)


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Up to what summing in another order and one rounding to `dtype` make."""
    atol, rtol = (1e-4, 1e-5) if dtype == F32 else (1e-2, 2.0**-7)
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)


def lineages_of(slots: list[list[DeviceAdapter]], depth: int, device: torch.device) -> Tensor:
    table = torch.zeros(depth, len(slots), dtype=torch.int64)
    for row, lineage in enumerate(slots):
        for position, slot in enumerate(lineage):
            table[position, row] = slot.address
    return table.to(device)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])
def test_a_decode_batch_of_every_form_in_one_launch(dtype: torch.dtype) -> None:
    made = list(deltas().values())
    # Every form alone, then chains of three, one with a gap, then the bare backbone.
    chains = [[i] for i in range(len(made))] + [[3, 8, 7], [5, 4, 10], [6, 1, 0], []]
    here = [slot_of(delta, factors) for delta, factors in made]
    host = [slot_of(delta, factors, CPU) for delta, factors in made]
    x = activations(len(chains), dtype)
    wide = torch.randn(len(chains), 3 * SHAPE[0]).to(dtype)
    results = []
    for slots, device, add in (
        (here, DEVICE, launch.add_decode),
        (host, CPU, reference.add_decode),
    ):
        y = wide.clone().to(device)
        lineages = lineages_of([[slots[i] for i in chain] for chain in chains], 4, device)
        add(lineages, NUMBER, x.to(device), y[:, SHAPE[0] : 2 * SHAPE[0]])  # as in fused q, k, v
        results.append(y.cpu())
    assert_close(results[0], results[1], dtype)
    expected = wide.double()
    for row, chain in enumerate(chains):
        for i in chain:
            update = dense_of(made[i][0], SHAPE) @ x[row].double()
            expected[row, SHAPE[0] : 2 * SHAPE[0]] += update
    assert_close(results[0].double(), expected, dtype)
    assert torch.equal(results[0][-1], wide[-1]), "the bare row was touched"


@pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])
def test_a_decoding_rows_bits_do_not_depend_on_its_mates(dtype: torch.dtype) -> None:
    made = deltas()
    names = ["float32 at 5 %", "factored, bfloat16", "low rank", "full, dense"]
    slots = [slot_of(*made[name]) for name in names]
    chains = [[slots[0], slots[1]], [slots[2]], [slots[3], slots[0]], []]
    x = activations(4, dtype).to(DEVICE)
    start = torch.randn(4, SHAPE[0]).to(DEVICE, dtype)
    together = start.clone()
    launch.add_decode(lineages_of(chains, 2, DEVICE), NUMBER, x, together)
    for row, chain in enumerate(chains):
        alone = start[row : row + 1].clone()
        launch.add_decode(lineages_of([chain], 2, DEVICE), NUMBER, x[row : row + 1], alone)
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])
def test_an_encode_of_tiles_of_many_slots(dtype: torch.dtype) -> None:
    made = list(deltas().values())
    here = [slot_of(delta, factors) for delta, factors in made]
    host = [slot_of(delta, factors, CPU) for delta, factors in made]
    # Short tiles and a whole one; tokens 3 and 4 belong to no tile.
    spans = [(0, 3), *((5 + 2 * i, 7 + 2 * i) for i in range(1, len(made))), (40, 40 + 64)]
    owners = [*range(len(made)), 4]
    x = activations(110, dtype)
    wide = torch.randn(110, 2 * SHAPE[0]).to(dtype)
    results = []
    for slots, device, add in (
        (here, DEVICE, launch.add_encode),
        (host, CPU, reference.add_encode),
    ):
        y = wide.clone().to(device)
        tiles = torch.tensor(
            [(slots[i].address, *span) for i, span in zip(owners, spans, strict=True)],
            device=device,
        )
        add(tiles, NUMBER, x.t().contiguous().to(device), y[:, SHAPE[0] :])
        results.append(y.cpu())
    assert_close(results[0], results[1], dtype)
    expected = wide.double()
    for i, (start, stop) in zip(owners, spans, strict=True):
        if "dense" in (form := list(deltas())[i]) or form == "low rank":
            continue  # left to the library's products
        update = x[start:stop].double() @ dense_of(made[i][0], SHAPE).t()
        expected[start:stop, SHAPE[0] :] += update
    assert_close(results[0].double(), expected, dtype)
    assert torch.equal(results[0][3:5], wide[3:5])


@pytest.mark.parametrize("name", ["float32 at 5 %", "factored, bfloat16"])
def test_a_tokens_bits_do_not_depend_on_its_mates(name: str) -> None:
    slot = slot_of(*deltas()[name])
    x = activations(70, BF16).t().contiguous().to(DEVICE)
    together = torch.zeros(70, SHAPE[0], device=DEVICE)
    x = x.float()
    tiles = torch.tensor([(slot.address, 0, 64), (slot.address, 64, 70)], device=DEVICE)
    launch.add_encode(tiles, NUMBER, x, together)
    for token in (0, 33, 69):
        alone = torch.zeros(1, SHAPE[0], device=DEVICE)
        one = torch.tensor([(slot.address, 0, 1)], device=DEVICE)
        launch.add_encode(one, NUMBER, x[:, token : token + 1].contiguous(), alone)
        assert torch.equal(alone[0], together[token])


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=["float32", "float16", "bfloat16"])
def test_the_kernels_mask_is_the_stored_one_to_the_bit(dtype: torch.dtype) -> None:
    delta, factors = gated(dtype, seed=5)
    assert isinstance(delta, SparseDelta)
    slot = slot_of(delta, factors)
    assert torch.equal(launch.kept(slot.pool, NUMBER, SHAPE).cpu(), delta.support())
    host = slot_of(delta, factors, CPU)
    assert torch.equal(reference.kept(host.pool, NUMBER, SHAPE), delta.support())


def test_exceptions_flip_entries_both_ways_in_mask_and_product() -> None:
    a, b = factor_pair(SHAPE, 3)
    product = product_in_order(a, b)
    keep = product.abs() > 1.5
    # Entries in corners of the matrix and of tiles; about half of them are kept without this.
    flipped = torch.tensor([0, 69, 70, 64 + 70, 15 * 70 + 31, 16 * 70 + 32, 36 * 70 + 69])
    keep.view(-1)[flipped] = ~keep.view(-1)[flipped]
    assert keep.view(-1)[flipped].any()
    assert not keep.view(-1)[flipped].all()
    delta = SparseDelta.from_dense(product * keep * 0.5, BF16)
    factors = try_factor(delta, a, b, tau=1.5, scale=0.5, device=CPU)
    assert factors is not None
    assert factors.exceptions.tolist() == flipped.tolist()
    slot = slot_of(delta, factors)
    assert torch.equal(launch.kept(slot.pool, NUMBER, SHAPE).cpu(), delta.support())
    # Unit vectors read the matrix out: values are the file's, to the bit, as its product is ours.
    y = torch.zeros(SHAPE[1], SHAPE[0], device=DEVICE)
    tiles = torch.tensor([(slot.address, 0, 64), (slot.address, 64, 70)], device=DEVICE)
    launch.add_encode(tiles, NUMBER, torch.eye(SHAPE[1], device=DEVICE), y)
    assert torch.equal(y.cpu().t(), delta.to_dense())


def test_a_product_at_the_threshold_is_not_kept() -> None:
    a, b = torch.tensor([[1.5, -1.5, 1.5000001, 0.0]]), torch.tensor([[1.0], [-1.0]])
    delta = SparseDelta.from_factors(a, b, 1.5, 2.0)
    factors = try_factor(delta, a, b, tau=1.5, scale=2.0, device=CPU)
    assert factors is not None
    assert factors.exceptions.numel() == 0
    mask = launch.kept(slot_of(delta, factors).pool, NUMBER, (2, 4)).cpu()
    assert mask.tolist() == [[False, False, True, False]] * 2


def test_the_recomputed_product_has_the_references_bits() -> None:
    a, b = factor_pair(SHAPE, 9)
    product = product_in_order(a, b)
    assert not torch.equal(product, b @ a), "no contrast: another order gives the same bits"
    exceptions = torch.empty(0, dtype=torch.int32)
    slot = slot_of(None, GatedFactors(a, b, 0.0, 1.0, exceptions, F32))
    y = torch.zeros(SHAPE[1], SHAPE[0], device=DEVICE)
    tiles = torch.tensor([(slot.address, 0, 64), (slot.address, 64, 70)], device=DEVICE)
    launch.add_encode(tiles, NUMBER, torch.eye(SHAPE[1], device=DEVICE), y)
    assert torch.equal(y.cpu().t(), product)


def test_sums_are_rounded_to_bfloat16_as_torch_does() -> None:
    random = torch.randn(200, generator=torch.Generator().manual_seed(0))
    step = 2.0**-8  # half of bfloat16's step at 1: ties
    crafted = [1 + step, 1 + 3 * step, -1 - step, 2 - step, 1 + step + 2.0**-20, 1e-39, 3.4e38]
    values = torch.cat([random, torch.tensor(crafted)])[:, None]  # [n, 1]
    slot = slot_of(SparseDelta.from_dense(values))
    y = torch.zeros(1, len(values), device=DEVICE, dtype=BF16)
    lineages = torch.full((1, 1), slot.address, device=DEVICE)
    launch.add_decode(lineages, NUMBER, torch.ones(1, 1, device=DEVICE, dtype=BF16), y)
    assert torch.equal(y.cpu()[0], values[:, 0].to(BF16))


def test_numbers_that_are_not_finite_stay_so_in_bfloat16() -> None:
    x = activations(1, BF16).to(DEVICE)
    y = torch.tensor([[torch.nan, torch.inf, -torch.inf, 3.3895e38]]).to(DEVICE, BF16)
    before = y.clone()
    launch.add_decode(torch.zeros(1, 1, dtype=torch.int64, device=DEVICE), NUMBER, x, y)
    torch.testing.assert_close(y, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])
def test_a_large_models_module_with_fresh_inputs(dtype: torch.dtype) -> None:
    """64 rows of 64 slots, 1024 x 1024, against float64, in decode and in encode."""
    shape, rows, tokens, seed = (1024, 1024), 64, 100, int(torch.seed() % 2**31)
    deltas = [sparse(shape, 0.124, dtype=BF16, seed=seed + row) for row in range(rows)]
    slots = [slot_of(delta) for delta in deltas]
    matrices = [delta.to_dense().to(DEVICE).double() for delta in deltas]
    x = torch.randn(rows * tokens, shape[1], device=DEVICE).to(dtype)
    # What is not written stays far off.
    start = torch.randn(rows * tokens, shape[0], device=DEVICE).to(dtype)
    spans = [(row * tokens, (row + 1) * tokens) for row in range(rows)]
    expected = start.double()
    for (first, stop), matrix in zip(spans, matrices, strict=True):
        expected[first:stop] += x[first:stop].double() @ matrix.t()

    y = start.clone()
    tiles = [
        (slot.address, at, min(at + TOKENS, stop))
        for slot, (first, stop) in zip(slots, spans, strict=True)
        for at in range(first, stop, TOKENS)
    ]
    launch.add_encode(torch.tensor(tiles, device=DEVICE), NUMBER, x.t().contiguous(), y)
    first_tokens = slice(0, rows * tokens, tokens)
    y_decode = start[first_tokens].clone()
    lineages = lineages_of([[slot] for slot in slots], 1, DEVICE)
    launch.add_decode(lineages, NUMBER, x[first_tokens], y_decode)
    limit = 1e-5 if dtype == F32 else 4e-3
    for found, wanted in ((y, expected), (y_decode, expected[first_tokens])):
        error = (found.double() - wanted).norm() / wanted.norm()
        assert error < limit, f"relative error {error:.2e}, seed {seed}"
