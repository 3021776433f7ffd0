"""The warm-up: what it computes, when it stops, and that it leaves answers as they are."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest

from decoding import make_sequence, run
from factories import tiny_t5
from fakes import LIMITS, FakeEngine
from jumplora_server.app import assemble
from jumplora_server.core import Batch, EngineLimits, Kernels, Sampling, StepOutput
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import why_unavailable
from jumplora_server.engine.warm_up import DRILLS, LABELS, STEPS, warm_up
from jumplora_server.settings import Settings

native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))


class Recorder:
    """Steps of a fake engine, and the batches that they were given."""

    def __init__(self, limits: EngineLimits) -> None:
        self.engine = FakeEngine(limits)
        self.batches: list[Batch] = []

    def step(self, batch: Batch) -> StepOutput:
        self.batches.append(batch)
        return self.engine.step(batch)


def test_every_kind_of_batch_is_computed() -> None:
    recorder = Recorder(LIMITS)
    assert warm_up(recorder.step, LIMITS, lambda: 0.0, most_seconds=1.0) == len(DRILLS)
    encoded = [batch for batch in recorder.batches if batch.encode]
    assert [(len(b.encode), len(b.encode[0].prompt)) for b in encoded] == [
        (drill.prompts, drill.source) for drill in DRILLS
    ]
    assert len(recorder.batches) == STEPS * len(DRILLS)
    sampled = {s.sampling.mode for batch in encoded for s in batch.decode}
    assert sampled == {"greedy", "sample"}
    assert {len(each.nodes) for batch in encoded for each in batch.passes} == {LABELS + 1}


def test_it_stops_when_its_time_is_up_but_not_before_the_first_step() -> None:
    recorder = Recorder(LIMITS)
    clock = itertools.count(0.0, 10.0).__next__
    assert warm_up(recorder.step, LIMITS, clock, most_seconds=1.0) == 1
    assert len(recorder.batches) == 1


def test_it_keeps_to_narrow_limits() -> None:
    limits = EngineLimits(
        max_rows=2, max_source_tokens=8, max_target_tokens=1, end_token_ids=(1,), max_nodes=1
    )
    recorder = Recorder(limits)
    assert warm_up(recorder.step, limits, lambda: 0.0, most_seconds=1.0) == len(DRILLS)
    assert max(len(batch.decode) for batch in recorder.batches) == 2
    assert max(len(e.prompt) for batch in recorder.batches for e in batch.encode) == 8
    assert len(recorder.batches) == len(DRILLS)


@pytest.mark.parametrize(
    ("dtype", "kernels"),
    [
        pytest.param("int8", "native", marks=native),
        ("float32", "torch"),
        ("int8", "torch"),
        ("bfloat16", "torch"),
    ],
)
def test_answers_after_it_are_those_without_it(
    tmp_path: Path, dtype: str, kernels: Kernels
) -> None:
    def tokens(warmed: bool) -> list[list[int]]:
        engine = Engine(
            folder, dtype=dtype, kernels=kernels, max_rows=4, max_source_tokens=32,
            max_target_tokens=12,
        )  # fmt: skip
        if warmed:
            assert engine.warm_up(60.0) == len(DRILLS)
        penalty = Sampling(12, repetition_penalty=1.5)
        return run(
            engine,
            [make_sequence([9 + n, 40, 7, 1], row=n, sampling=penalty) for n in range(3)],
        )

    folder = tiny_t5(tmp_path)
    assert tokens(warmed=True) == tokens(warmed=False)


def test_an_engine_computes_the_rows_that_it_will_serve(tmp_path: Path) -> None:
    encoded, decoded = set[int](), set[int]()

    class Watched(Engine):
        def step(self, batch: Batch) -> StepOutput:
            encoded.update(encoding.place for encoding in batch.encode)
            output = super().step(batch)
            decoded.update(sequence.row for sequence in batch.decode)
            return output

    engine = Watched(
        tiny_t5(tmp_path), dtype="float32", kernels="torch", max_rows=4, max_source_tokens=32,
        max_target_tokens=12,
    )  # fmt: skip
    assert engine.warm_up(60.0) == len(DRILLS)
    assert encoded == decoded == set(range(4))


def test_a_server_is_warm_once_it_is_assembled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(
        backbone=str(tiny_t5(tmp_path / "backbone")), store=tmp_path / "store", kernels="torch",
        dtype="float32", max_rows=4,
    )  # fmt: skip
    with caplog.at_level(logging.INFO, logger="jumplora_server.app"):
        parts = assemble(settings)
    assert parts.services.lifecycle.phase == "starting"
    assert parts.services.hardware.kernels == "torch"
    assert parts.services.hardware.weight_bytes > 0
    assert any(
        line.startswith("warmed up in ") and line.endswith(" 5 of 5 kinds of batches")
        for line in caplog.messages
    )
