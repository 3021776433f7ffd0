"""What a window of the server's histograms says, and how large an upload is made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from factories import toy_backbone
from jumplora_adapters.delta import mask_bytes
from jumplora_bench.answers import Answer
from jumplora_bench.disturbance import Side, _density_of, _note
from jumplora_bench.loading import _overlaps
from jumplora_bench.published import write_random

WIDE = toy_backbone({"encoder.block.0.layer.0.SelfAttention.q": (400, 500)})
ENTRIES = 400 * 500


class Steps:
    """Instruments with the server's names."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.seconds = Histogram("jumplora_step_seconds", "d", ["phase"], registry=self.registry)
        self.rows = Histogram("jumplora_batch_rows", "d", registry=self.registry)

    def page(self) -> str:
        return generate_latest(self.registry).decode()

    def observe(self, phase: str, seconds: float, rows: int) -> None:
        self.seconds.labels(phase).observe(seconds)
        self.rows.observe(rows)


def answer(total: float, error: str | None = None) -> Answer:
    return Answer("t", 1.0, 1.0, (1.5,), 1.0 + total, error)


def test_a_window_is_noted_without_what_was_before() -> None:
    steps = Steps()
    steps.observe("decode", 99.0, 1)
    steps.observe("encode", 99.0, 1)
    before = steps.page()
    for seconds in (0.01, 0.03):
        steps.observe("decode", seconds, 8)
    steps.observe("encode", 0.1, 2)
    side = Side()
    _note(side, before, steps.page(), [answer(0.5), answer(9.0, "429 queue_full"), answer(0.7)])
    assert side.decode == pytest.approx([0.02])
    assert side.encode == pytest.approx([0.1])
    assert side.step == pytest.approx([0.07]), "(0.04 + 0.1) over two decode steps"
    assert side.rows == pytest.approx([6.0])
    assert side.totals == pytest.approx([0.5, 0.7])
    assert side.failed == 1


def test_a_window_without_steps_is_noted_as_zeros() -> None:
    page = Steps().page()
    side = Side()
    _note(side, page, page, [answer(1.0, "ConnectError")])
    assert (side.decode, side.encode, side.step, side.rows) == ([0.0], [0.0], [0.0], [0.0])
    assert (side.totals, side.failed) == ([], 1)


@pytest.mark.parametrize("density", [0.01, 0.1, 0.4])
def test_an_upload_has_the_size_that_was_wanted(density: float, tmp_path: Path) -> None:
    nbytes = mask_bytes(ENTRIES) + round(4 * density * ENTRIES)
    found = _density_of(WIDE, nbytes)
    assert found == pytest.approx(density, rel=1e-3)
    file = write_random(
        tmp_path / "upload.safetensors", WIDE, "t", density=found, seed=0, dtype=torch.float32
    )
    header = int.from_bytes(file.read_bytes()[:8], "little") + 8
    assert file.stat().st_size - header == pytest.approx(nbytes, rel=0.05)


@pytest.mark.parametrize(
    ("nbytes", "expected"),
    [
        pytest.param(1, 0.001, id="smaller than the masks"),
        pytest.param(10**12, 0.5, id="larger than any"),
    ],
)
def test_sizes_that_no_adapter_has_are_the_nearest(nbytes: int, expected: float) -> None:
    assert _density_of(WIDE, nbytes) == expected


@pytest.mark.parametrize(
    ("due", "ended", "expected"),
    [
        pytest.param(0.0, 1.0, False, id="before"),
        pytest.param(0.0, 1.1, True, id="into it"),
        pytest.param(1.2, 1.8, True, id="within"),
        pytest.param(0.0, 9.0, True, id="around"),
        pytest.param(1.9, 9.0, True, id="out of it"),
        pytest.param(2.0, 9.0, False, id="after"),
    ],
)
def test_answers_beside_a_load(due: float, ended: float, expected: bool) -> None:
    """The load lasts from 1 to 2."""
    assert _overlaps(Answer("t", due, due, (), ended), 1.0, 2.0) is expected
