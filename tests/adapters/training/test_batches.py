"""Order and padding."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from jumplora_adapters.training.batches import (
    IGNORED,
    by_length,
    collate,
    epoch_order,
    steps_of,
)
from jumplora_adapters.training.data import Example

sizes = st.lists(st.integers(1, 200), min_size=1, max_size=300)


@given(sizes, st.integers(1, 40), st.integers(0, 3), st.integers(0, 3))
def test_an_epoch_has_every_row_once(lengths: list[int], rows: int, seed: int, epoch: int) -> None:
    steps = epoch_order(lengths, rows, seed=seed, epoch=epoch)
    assert sorted(index for step in steps for index in step) == list(range(len(lengths)))
    assert len(steps) == steps_of(len(lengths), rows)
    assert all(len(step) <= rows for step in steps)
    assert steps == epoch_order(lengths, rows, seed=seed, epoch=epoch)


def test_seed_and_epoch_change_the_order() -> None:
    orders = [
        epoch_order(range(64), 4, seed=seed, epoch=epoch)
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_steps_hold_rows_of_similar_length() -> None:
    lengths = [i % 100 + 1 for i in range(1600)]
    steps = epoch_order(lengths, 16, seed=0, epoch=0)
    computed = sum(max(lengths[i] for i in step) * len(step) for step in steps)
    assert computed < 1.1 * sum(lengths)


@given(sizes, st.integers(1, 40))
def test_by_length_goes_from_long_to_short(lengths: list[int], rows: int) -> None:
    order = [index for batch in by_length(lengths, rows) for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)


def test_collate_pads_shifts_and_masks() -> None:
    examples = [Example((5, 6, 1), (7, 1), "a"), Example((5, 1), (7, 8, 1), "b")]
    batch = collate(examples, pad=0, start=9, device=torch.device("cpu"))
    # Sources are padded to a multiple of 16, so that there are few shapes; targets are short.
    assert batch.source.tolist() == [[5, 6, 1] + 13 * [0], [5, 1] + 14 * [0]]
    assert batch.is_source.tolist() == [3 * [1] + 13 * [0], 2 * [1] + 14 * [0]]
    assert batch.decoder.tolist() == [[9, 7, 0], [9, 7, 8]]
    assert batch.target.tolist() == [[7, 1, IGNORED], [7, 8, 1]]
