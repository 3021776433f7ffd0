"""The caches: a place or a row holds what was written last, and nothing of its neighbours'."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jumplora_adapters.architecture import architecture_of
from jumplora_server.core import EngineLimits, RowCopy
from jumplora_server.engine.cache import (
    LENGTH_STEP,
    Caches,
    SourceCache,
    TargetCache,
    round_up,
)

CONFIG = architecture_of(
    {"model_type": "t5", "d_model": 8, "num_heads": 2, "d_kv": 3, "num_layers": 2}
)
CPU = torch.device("cpu")
LAYERS, HEADS, WIDTH = 2, 2, 3


def source_cache(places: int = 4, length: int = 70) -> SourceCache:
    return SourceCache(CONFIG, places=places, length=length, dtype=torch.float32, device=CPU)


def target_cache(rows: int = 4, length: int = 10) -> TargetCache:
    return TargetCache(CONFIG, rows=rows, length=length, dtype=torch.float32, device=CPU)


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 10_000))
def test_lengths_are_rounded_up_to_whole_steps(length: int) -> None:
    found = round_up(length)
    assert found % LENGTH_STEP == 0
    assert length <= found < length + LENGTH_STEP


def test_a_prompt_is_written_to_its_place_alone() -> None:
    cache = source_cache()
    assert cache.length == 128
    k, v = numbers(2, HEADS, 64, WIDTH, seed=1), numbers(2, HEADS, 64, WIDTH, seed=2)
    cache.open([3, 1], [60, 5])
    cache.write(1, torch.tensor([3, 1]), k, v)
    keys, values = cache.read(1, torch.tensor([1, 3, 1]), 64)
    assert torch.equal(keys, k[[1, 0, 1]])
    assert torch.equal(values, v[[1, 0, 1]])
    assert not cache.k[0].any()
    assert not cache.k[1][[0, 2]].any()
    assert cache.lengths.tolist() == [0, 5, 0, 60]


def test_a_slice_of_places_is_a_view_and_has_their_numbers() -> None:
    cache = source_cache()
    k = numbers(4, HEADS, 64, WIDTH, seed=1)
    cache.write(0, torch.arange(4), k, k)
    (view, _), (copied, _) = (cache.read(0, places, 64) for places in (slice(3), torch.arange(3)))
    assert torch.equal(view, copied)
    assert view.data_ptr() == cache.k.data_ptr()
    assert copied.numel() == 3 * HEADS * 64 * WIDTH, "no more than was asked for is copied"


def test_masks_hide_what_is_behind_a_prompt() -> None:
    cache = source_cache()
    lowest = torch.finfo(torch.float32).min
    assert bool((cache.mask == lowest).all()), "a free place hides everything"
    cache.open([2], [5])
    assert not cache.mask[2, :5].any()
    assert bool((cache.mask[2, 5:] == lowest).all())
    cache.open([2], [2])
    assert int((cache.mask[2] == 0).sum()) == 2, "the next prompt is shorter"


def test_a_step_is_appended_at_each_rows_position() -> None:
    cache = target_cache()
    k, v = numbers(2, HEADS, WIDTH, seed=1), numbers(2, HEADS, WIDTH, seed=2)
    cache.append(1, torch.tensor([3, 0]), torch.tensor([7, 2]), k, v)
    assert torch.equal(cache.k[1, 3, :, 7], k[0])
    assert torch.equal(cache.v[1, 0, :, 2], v[1])
    assert int((cache.k != 0).sum()) == 2 * HEADS * WIDTH


@pytest.mark.parametrize(("same", "tokens"), [(0, 0), (0, 1), (0, 9), (0, 10), (4, 9), (9, 9)])
def test_a_copy_takes_the_first_tokens_of_every_layer(same: int, tokens: int) -> None:
    cache = target_cache()
    cache.k.copy_(numbers(*cache.k.shape, seed=1))
    cache.v.copy_(numbers(*cache.v.shape, seed=2))
    before = [cache.k.clone(), cache.v.clone()]
    cache.copy([RowCopy(2, 0, tokens, same), RowCopy(2, 3, tokens, same)])
    for now, then in zip((cache.k, cache.v), before, strict=True):
        for row in (0, 3):
            assert torch.equal(now[:, row, :, same:tokens], then[:, 2, :, same:tokens])
            for kept in (slice(same), slice(tokens, None)):
                assert torch.equal(now[:, row, :, kept], then[:, row, :, kept])
        assert torch.equal(now[:, 1:3], then[:, 1:3])


def test_clearing_forgets_one_place_or_row() -> None:
    source, target = source_cache(), target_cache()
    for cache in (source, target):
        cache.k.fill_(torch.nan)
        cache.v.fill_(torch.nan)
        cache.clear(1)
        for tensor in (cache.k, cache.v):
            assert not tensor[:, 1].any()
            assert bool(tensor[:, [0, 2, 3]].isnan().all())


def test_there_are_as_many_places_as_rows_and_enough_for_a_product() -> None:
    limits = EngineLimits(max_rows=2, max_source_tokens=5, max_target_tokens=65, end_token_ids=(1,))
    caches = Caches.of(CONFIG, limits, min_rows=4, dtype=torch.bfloat16, device=CPU)
    assert caches.source.k.shape == (LAYERS, 4, HEADS, 64, WIDTH)
    assert caches.target.v.shape == (LAYERS, 4, HEADS, 128, WIDTH)
    assert caches.target.rows == 4
    assert caches.source.k.dtype == torch.bfloat16
