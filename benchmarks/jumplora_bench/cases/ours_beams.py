"""Beam searches in our engine: the scheduler's own, all prompts of a lap at once."""

from __future__ import annotations

import time

from jumplora_bench.cases.case import Lap, Work
from jumplora_server.core import AdapterRef, Beams, Encoding, Finish, NoText, Sampling, Sequence
from jumplora_server.engine.engine import Engine
from jumplora_server.scheduler.claims import Priority
from jumplora_server.scheduler.scheduler import Scheduler


class OursBeamsCase:
    """Prompts of the bare backbone, `width` beams each: `width` times as many rows."""

    def __init__(self, name: str, engine: Engine, work: Work, width: int) -> None:
        self.name = name
        self._engine = engine
        self._work = work
        # Every answer has all of its tokens, as the others' have.
        self._sampling = Sampling(work.new, min_new_tokens=work.new, beams=Beams(width))

    def run(self) -> Lap:
        """Encode once, then decode until every search is over."""
        work, began = self._work, time.perf_counter()
        scheduler = Scheduler(
            self._engine.limits, _NoAdapters(), max_encode_tokens=work.rows * work.source
        )
        for number, prompt in enumerate(work.prompts):
            scheduler.add(
                Sequence(
                    id=number,
                    encoding=Encoding(None, prompt),
                    sampling=self._sampling,
                    detokenizer=NoText(),
                    arrived=began,
                    wants="end",
                )
            )
        encode_seconds = 0.0
        ended: dict[int, Finish] = {}
        while not (batch := scheduler.next_batch(time.perf_counter())).is_empty():
            output = self._engine.step(batch)
            encode_seconds += output.encode_seconds if batch.encode else 0.0
            scheduler.apply(batch, output, time.perf_counter())
            for sequence, event in scheduler.take_events():
                assert event.finish is not None
                ended[sequence.id] = event.finish
        seconds = time.perf_counter() - began
        best = [ended[number].answers[0] for number in range(work.rows)]
        tokens = tuple(tuple(token.id for token in answer.tokens) for answer in best)
        return Lap(seconds, tokens, encode_seconds)


class _NoAdapters:
    """Residency where there is the bare backbone alone."""

    def claim(self, ref: AdapterRef, priority: Priority) -> tuple[int, ...] | None:
        raise AssertionError(f"{ref.task} is not here")

    def unclaim(self, ref: AdapterRef) -> None:
        raise AssertionError(f"{ref.task} is not here")
