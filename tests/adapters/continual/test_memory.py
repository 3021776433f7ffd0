"""The reckoned memory against numbers worked out by hand, and the refusal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jumplora_adapters.architecture import architecture_of
from jumplora_adapters.continual.memory import (
    MemoryEstimate,
    TrainingSizes,
    available_bytes,
    check_memory,
    estimate_of,
)
from jumplora_adapters.continual.watch import Watch
from jumplora_adapters.errors import DataError

T5_LARGE = TrainingSizes(
    architecture=architecture_of(
        {"model_type": "t5", "d_model": 1024, "d_ff": 4096, "num_heads": 16, "num_layers": 24}
    ),
    targets=((1024, 1024),) * 144,
    weights=737_668_096,
    rank=8,
    rows=8,
    source=512,
    target=8,
    is_gated=True,
    is_masked=True,
    past_entries=144 * 1024 * 1024,
    program=0,
)  # fmt: skip

TINY = architecture_of(
    {"model_type": "t5", "d_model": 8, "d_kv": 8, "num_heads": 1, "num_layers": 1, "vocab_size": 8}
)


def test_t5_large_by_hand() -> None:
    found = estimate_of(T5_LARGE)
    assert found.backbone == 4 * 737_668_096
    assert found.adapter == 5 * 4 * 2_359_296  # r = 8 on 144 modules
    assert found.past == 603_979_776  # the 604 MB of ELLA's W_past
    assert found.update == 6 * 4 * 1024 * 1024 + 603_979_776  # and a weight a layer left behind
    # A row and layer of the encoder: 512 tokens of 8 d_model + 4 inner + 6 d_ff numbers, and two
    # 512 x 512 maps of 16 heads.
    encoder = 24 * 8 * 4 * (512 * 36_864 + 2 * 16 * 512 * 512)
    assert encoder < found.activations < 1.1 * encoder
    assert found.logits == 3 * 4 * 8 * 8 * 32128
    # 16,384 source tokens: keys and values of 24 layers, twice; and a whole weight of every target.
    assert found.scoring > 4 * 2 * 2 * 24 * 16_384 * 1024 + 603_979_776
    assert found.scoring < found.activations  # so the step is the peak
    assert 20e9 < found.total < 30e9


def test_scoring_is_the_peak_where_a_step_is_small() -> None:
    found = estimate_of(replace(T5_LARGE, rows=1))
    assert found.total == (found.backbone + found.adapter + found.past + found.scoring)


def test_the_whole_batch_at_once_takes_four_times_the_activations() -> None:
    small, large = estimate_of(T5_LARGE), estimate_of(replace(T5_LARGE, rows=32))
    assert large.activations == 4 * small.activations
    assert large.backbone == small.backbone


def test_plain_lora_holds_nothing_dense() -> None:
    found = estimate_of(replace(T5_LARGE, is_gated=False, is_masked=False, past_entries=0))
    assert (found.update, found.past) == (0, 0)


HEAD = (250_112, 1024)  # of mT5-large, 1.02 GB in float32


def test_a_gated_head_is_the_largest_matrix() -> None:
    small = replace(T5_LARGE, past_entries=0)
    found, without = estimate_of(replace(small, targets=(*small.targets, HEAD))), estimate_of(small)
    entries = 250_112 * 1024
    assert found.update - without.update == 4 * (6 * (entries - 1024 * 1024) + entries)
    assert found.adapter - without.adapter == 5 * 4 * 8 * (250_112 + 1024)
    assert found.scoring - without.scoring == 4 * entries


@pytest.mark.parametrize(("is_masked", "matrices"), [(True, 6), (False, 3)])
def test_a_head_is_written_out_when_it_is_saved_and_scored(is_masked: bool, matrices: int) -> None:
    """A mask of factors takes six matrices; a weight with its update, beside the sum, three."""
    alone = replace(
        T5_LARGE, architecture=TINY, targets=(HEAD,), is_gated=False, is_masked=is_masked,
        past_entries=0,
    )  # fmt: skip
    assert estimate_of(alone).update == 0
    assert estimate_of(alone).scoring == matrices * 4 * 250_112 * 1024


def test_the_adapters_before_are_of_the_past() -> None:
    found = estimate_of(replace(T5_LARGE, adapter_bytes=1_000_000))
    assert found.past == 603_979_776 + 1_000_000


def test_sixteen_bits_halve_the_activations_and_add_a_copy() -> None:
    wide, narrow = estimate_of(T5_LARGE), estimate_of(replace(T5_LARGE, narrow_copies=1))
    assert narrow.activations * 2 == wide.activations
    assert narrow.backbone == wide.backbone * 3 // 2


def test_what_does_not_fit_is_refused_with_its_parts() -> None:
    class Told(Watch):
        text = ""

        def told(self, text: str) -> None:
            self.text = text

    needed, told = MemoryEstimate(0, 3_000_000_000, 0, 0, 0, 1_000_000_000, 0, 0), Told()
    check_memory(needed, 4_000_000_000, told)
    assert told.text == (
        "memory: about 4.00 GB (backbone 3.00 GB, activations 1.00 GB; scoring or a training "
        "step, whichever is larger); there is 4.00 GB"
    )
    with pytest.raises(DataError, match=r"needs about 4\.00 GB .* there is 3\.99 GB: take smaller"):
        check_memory(needed, 3_990_000_000, told)


def test_this_machine_has_some() -> None:
    import torch

    assert 1e6 < available_bytes(torch.device("cpu")) < 1e15
