"""Position biases: the buckets of transformers, and biases as tables of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jumplora_adapters.architecture import Architecture, architecture_of
from jumplora_server.engine.attention import (
    Direction,
    causal_bias,
    position_buckets,
    prompt_bias,
)


def architecture(buckets: int = 32, distance: int = 128) -> Architecture:
    return architecture_of(
        {
            "model_type": "t5",
            "relative_attention_num_buckets": buckets,
            "relative_attention_max_distance": distance,
        }
    )


@pytest.mark.parametrize("sees", ["both", "past"])
@given(buckets=st.integers(4, 64), distance=st.integers(33, 600))
def test_buckets_are_those_of_transformers(sees: Direction, buckets: int, distance: int) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    steps = torch.arange(-700, 701)
    theirs = T5Attention._relative_position_bucket(
        steps, bidirectional=sees == "both", num_buckets=buckets, max_distance=distance
    )
    assert torch.equal(position_buckets(steps, architecture(buckets, distance), sees=sees), theirs)


def test_a_prompts_bias_is_by_key_minus_query() -> None:
    table = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))
    bias = prompt_bias(table, 7, architecture())
    assert bias.shape == (3, 7, 7)
    for query in range(7):
        for key in range(7):
            bucket = position_buckets(torch.tensor(key - query), architecture(), sees="both")
            assert torch.equal(bias[:, query, key], table[bucket])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_steps_bias_hides_the_keys_to_come(dtype: torch.dtype) -> None:
    table = torch.randn(32, 2, generator=torch.Generator().manual_seed(1)).to(dtype)
    positions = torch.tensor([0, 3, 5])
    bias = causal_bias(table, positions, 6, architecture())
    assert (bias.shape, bias.dtype) == ((3, 2, 6), dtype)
    for row, position in enumerate(positions.tolist()):
        whole = causal_bias(table, torch.tensor([5]), 6, architecture())[0]
        # The newest key is last in both, whatever the position.
        assert torch.equal(bias[row, :, : position + 1], whole[:, 5 - position :])
        assert bool((bias[row, :, position + 1 :] == torch.finfo(dtype).min).all())
