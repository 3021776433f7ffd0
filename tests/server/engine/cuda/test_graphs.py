"""Padding, dead rows and static buffers of the decode step; capture itself needs a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from device_slots import DEVICE
from jumplora_server.engine.cuda.graphs import (
    DecodeShape,
    DecodeSteps,
    StepBuffers,
    StepInputs,
    fill,
    shape_of,
)


def inputs(rows: list[int], depth: int = 1) -> StepInputs:
    return StepInputs(
        rows=rows,
        tokens=[100 + row for row in rows],
        positions=[row + 3 for row in rows],
        places=[50 - row for row in rows],
        lineages=[[1000 * row + place for place in range(depth)] for row in rows],
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (inputs([0]), DecodeShape(4, 1)),
        (inputs([3], depth=0), DecodeShape(4, 0)),
        (inputs([4], depth=2), DecodeShape(8, 2)),
        (inputs([1, 8], depth=3), DecodeShape(16, 4)),
        (inputs([16], depth=15), DecodeShape(24, 16)),
        (replace(inputs([1]), targeted=0b101), DecodeShape(4, 1, 0b101)),
    ],
)
def test_shapes_are_padded_to_powers_of_two_up_to_the_caches(
    given: StepInputs, expected: DecodeShape
) -> None:
    assert shape_of(given, max_rows=24) == expected


def test_dead_rows_have_no_slots_and_name_a_live_row() -> None:
    step = StepInputs(
        rows=[3, 1], tokens=[7, 8], positions=[2, 5], places=[6, 0], lineages=[[11, 12], [13]]
    )
    content = fill(DecodeShape(4, 2), step, start_token=9)
    assert content.tolist() == [
        [9, 8, 9, 7],  # tokens
        [0, 5, 0, 2],  # positions
        [3, 1, 3, 3],  # live
        [6, 0, 6, 6],  # source places
        [0, 13, 0, 11],  # oldest ancestors
        [0, 0, 0, 12],
    ]


@torch.inference_mode()
def test_steps_of_a_shape_share_buffers_that_never_move() -> None:
    seen: list[tuple[DecodeShape, tuple[int, ...]]] = []

    def compute(shape: DecodeShape, buffers: StepBuffers) -> Tensor:
        views = (
            buffers.tokens, buffers.positions, buffers.live, buffers.places, buffers.lineages,
        )  # fmt: skip
        seen.append((shape, tuple(view.data_ptr() for view in views)))
        return torch.stack((buffers.tokens, buffers.positions, buffers.lineages.sum(0)), dim=1)

    steps = DecodeSteps(compute, DEVICE)
    small, large = DecodeShape(4, 1), DecodeShape(8, 2)
    for shape, rows in ((small, [0, 2]), (large, [1, 7]), (small, [3]), (small, [1, 0])):
        content = fill(shape, inputs(rows, depth=shape.depth), 0)
        logits = steps.run(shape, content)
        expected = torch.stack((content[0], content[1], content[4:].sum(0)), dim=1)
        assert torch.equal(logits.cpu(), expected)
    addresses = {shape: {where for s, where in seen if s == shape} for shape in (small, large)}
    assert [len(where) for where in addresses.values()] == [1, 1]
