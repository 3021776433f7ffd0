"""What a slot takes: the bytes of a T5-large adapter in each form, and what is in the pool."""

from __future__ import annotations

import pytest
import torch

from device_slots import CPU, adapter_of, low_rank, sparse
from jumplora_adapters.architecture import architecture_of
from jumplora_adapters.delta import Delta, SparseDelta
from jumplora_adapters.network import version_1_targets
from jumplora_server.engine.bank import packed
from jumplora_server.engine.cuda.factored import GatedFactors
from jumplora_server.engine.cuda.forms import form_of
from jumplora_server.engine.cuda.pool import Pool, view
from jumplora_server.engine.cuda.record import Record
from jumplora_server.engine.cuda.slot import load, on_device
from jumplora_server.engine.cuda.upload import Uploader
from jumplora_server.engine.delta import make_form

T5_LARGE = version_1_targets(
    architecture_of({"model_type": "t5", "d_model": 1024, "num_heads": 16, "num_layers": 24})
)
MODULES = {module: number for number, module in enumerate(T5_LARGE)}


def test_t5_large_is_what_the_bars_are_for() -> None:
    assert len(T5_LARGE) == 144
    assert set(T5_LARGE.values()) == {(1024, 1024)}


def test_a_packed_t5_large_adapter_of_5_1_percent_takes_at_most_34_5_mb() -> None:
    delta = sparse((1024, 1024), 0.051, dtype=torch.bfloat16)
    one = load(adapter_of({"m": delta}), {"m": 0}, {}, Uploader(CPU)).nbytes
    assert form_of(delta) == "packed"
    assert 144 * one <= 34.5e6
    assert one <= 4 * delta.nnz + 4 * 1025 + 128


def test_a_factored_t5_large_adapter_of_rank_8_takes_at_most_9_5_mb() -> None:
    delta = sparse((1024, 1024), 0.001)
    factors = GatedFactors(
        A=torch.zeros(8, 1024), B=torch.zeros(1024, 8), tau=1.0, scale=4.0,
        exceptions=torch.zeros(1, dtype=torch.int32), dtype=torch.bfloat16,
    )  # fmt: skip
    whole = load(
        adapter_of(dict.fromkeys(T5_LARGE, delta)), MODULES, dict.fromkeys(T5_LARGE, factors),
        Uploader(CPU),
    )  # fmt: skip
    assert whole.nbytes == whole.pool.numel()
    assert whole.nbytes <= 9.5e6


@pytest.mark.parametrize(
    ("delta", "form"),
    [
        (sparse((48, 64), 0.0), "packed"),
        (sparse((48, 64), 0.4, dtype=torch.bfloat16), "packed"),
        (sparse((48, 64), 0.6, dtype=torch.bfloat16), "dense"),
        (sparse((48, 64), 0.6), "packed"),  # 6 bytes a non-zero against 4 an entry
        (sparse((48, 64), 0.7), "dense"),
        (sparse((2, 70_000), 0.01), "dense"),  # columns do not fit into 16 bits
        (low_rank((48, 64)), "low rank"),
    ],
)
def test_the_form_is_that_of_the_fewest_bytes(delta: Delta, form: str) -> None:
    assert form_of(delta) == form


def test_columns_beyond_32767_are_kept() -> None:
    dense = torch.zeros(2, 65_536)
    dense[1, 65_535] = 2.0
    slot = load(adapter_of({"m": SparseDelta.from_dense(dense)}), {"m": 0}, {}, Uploader(CPU))
    record = slot.forms["m"].record
    assert view(slot.pool, record.second, (1,), torch.uint16).item() == 65_535


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_are_resident_as_the_file_has_them(dtype: torch.dtype) -> None:
    delta = sparse((48, 64), 0.2, dtype=dtype)
    slot = load(adapter_of({"m": delta}), {"m": 0}, {}, Uploader(CPU))
    record = slot.forms["m"].record
    assert record.values == dtype
    assert torch.equal(view(slot.pool, record.third, (delta.nnz,), dtype), delta.values)


def test_arrays_lie_aligned_and_apart_after_the_table() -> None:
    pool = Pool(3)
    first, second = torch.arange(5, dtype=torch.uint8), torch.arange(3, dtype=torch.int32)
    offsets = [pool.place(first), pool.place(torch.empty(0)), pool.place(second)]
    pool.describe(1, Record("packed", torch.float16, first=offsets[0], third=offsets[2]))
    host = torch.zeros(pool.nbytes, dtype=torch.uint8)
    pool.write(host, 1 << 40)
    assert all(offset % 16 == 0 for offset in offsets)
    assert torch.equal(view(host, offsets[0], (5,), torch.uint8), first)
    assert torch.equal(view(host, offsets[2], (3,), torch.int32), second)
    table = view(host, 0, (3, 9), torch.int64)
    base = 1 << 40
    assert table.tolist() == [
        [0] * 9,
        [1, 1, base + offsets[0], base, base + offsets[2], 0, 0, 0, 0x3F800000],
        [0] * 9,
    ]


def test_a_slot_of_another_runner_is_our_mistake() -> None:
    adapter = adapter_of({"m": sparse((8, 8), 0.5)})
    with pytest.raises(AssertionError, match="another runner"):
        on_device((packed(adapter, lambda delta: make_form(delta, CPU)),))
