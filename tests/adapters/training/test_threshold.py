"""The k-th magnitude against sorting."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jumplora_adapters.training.threshold import kth_magnitude

_VALUES = st.floats(-(2.0**99), 2.0**99, width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-40])


@given(st.lists(st.lists(_VALUES, min_size=1, max_size=20), min_size=1, max_size=4), st.data())
def test_it_is_what_sorting_gives(matrices: list[list[float]], data: st.DataObject) -> None:
    tensors = [torch.tensor([row]) for row in matrices]
    sizes = sorted(abs(float(value)) for tensor in tensors for value in tensor.flatten())
    k = data.draw(st.integers(1, len(sizes)))
    assert kth_magnitude([lambda t=t: t for t in tensors], k) == sizes[k - 1]  # type: ignore[misc]


@pytest.mark.parametrize("k", [1, 30_000, 65_000, 65_536])
def test_many_entries_that_share_their_upper_bits(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = 1.0 + torch.rand(256, 256, generator=generator) * 1e-4
    expected = float(torch.kthvalue(matrix.flatten(), k).values)
    assert kth_magnitude([lambda: matrix], k) == expected
