"""A quiet task beside floods, in virtual time: the real admission and scheduler, a simulated step.

A step takes a fixed time, some for each row and some for each encoded token, about as the demo's
backbone does. `jumplora bench fairness` measures the same with a real server.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from fakes import EOS, FakeDetokenizer
from jumplora_server.core import (
    AdapterRef,
    Encoding,
    EngineLimits,
    QueueLimits,
    Sampling,
    Sequence,
    StepOutput,
)
from jumplora_server.errors import QueueFull, TaskQuotaExceeded
from jumplora_server.loop.admission import Admission, Reservation
from jumplora_server.scheduler.claims import Priority
from jumplora_server.scheduler.queue import task_of
from jumplora_server.scheduler.scheduler import Scheduler

ROWS, SPARE = 16, 2
STEP, PER_ROW, PER_TOKEN = 0.001, 0.0002, 0.00003
CAPACITY = ROWS / (8 * (STEP + ROWS * PER_ROW + 2 * 20 * PER_TOKEN))  # requests/s of 20 in, 8 out


@dataclass(frozen=True)
class Load:
    """Requests a second of one task."""

    task: str
    rate: float
    new: int = 8
    prompt: int = 20

    def arrivals(self, seconds: float) -> Iterator[tuple[float, str, int, int]]:
        """When, of which task, with how many tokens in and out."""
        phase = random.Random(self.task).random()
        for n in range(int(seconds * self.rate)):
            yield (n + phase) / self.rate, self.task, self.prompt, self.new


class Ready:
    """Every version is loaded."""

    def claim(self, ref: AdapterRef, priority: Priority) -> tuple[int, ...]:
        return (1,)

    def unclaim(self, ref: AdapterRef) -> None:
        pass


@dataclass
class Outcome:
    """Seconds of the quiet task's answers, and how many of its requests were refused."""

    seconds: list[float]
    refused: int

    @property
    def p95(self) -> float:
        return sorted(self.seconds)[int(0.95 * len(self.seconds))]


def simulate(
    loads: list[Load], *, steady: int = 0, spare: int = SPARE, seconds: float = 20.0
) -> Outcome:
    """Four quiet requests a second beside the loads and `steady` clients that ask again at once."""
    now = 0.0
    admission = Admission(QueueLimits(), lambda: now, lambda reason: None, random.Random(0))
    limits = EngineLimits(ROWS + spare, 512, 128, (EOS,))
    scheduler = Scheduler(limits, Ready(), max_encode_tokens=2048, spare_rows=spare)
    outcome = Outcome([], 0)
    ids = itertools.count()
    places: dict[int, Reservation] = {}
    quiet = Load("quiet", 4.0)
    due = list(heapq.merge(*(load.arrivals(seconds) for load in [*loads, quiet])))
    due = [(0.0, "steady", 20, 8)] * steady + due
    for _ in range(100_000):
        while due and due[0][0] <= now:
            arrived, task, prompt, new = due.pop(0)
            try:
                place = admission.reserve(task, prompt)
            except (QueueFull, TaskQuotaExceeded):
                outcome.refused += task == "quiet"
                continue
            sequence = Sequence(
                id=next(ids),
                encoding=Encoding(AdapterRef(task, task, (task,)), (5,) * prompt),
                sampling=Sampling(max_new_tokens=new),
                detokenizer=FakeDetokenizer(),
                arrived=arrived,
                wants="end",
            )
            places[sequence.id] = place
            scheduler.add(sequence)
        batch = scheduler.next_batch(now)
        for sequence in batch.decode:
            if sequence.id in places:
                places.pop(sequence.id).release()
        if batch.is_empty():
            if not due:
                return outcome
            now = due[0][0]
            continue
        encoded = sum(len(encoding.prompt) for encoding in batch.encode)
        now += STEP + PER_ROW * len(batch.decode) + PER_TOKEN * encoded
        rows = len(batch.decode)
        scheduler.apply(batch, StepOutput((ord("x"),) * rows, (None,) * rows), now)
        for sequence, event in scheduler.take_events():
            if event.finish is None:
                continue
            owner = task_of(sequence)
            if owner == "quiet":
                outcome.seconds.append(now - sequence.arrived)
            if owner == "steady" and now < seconds:
                due.insert(0, (now, "steady", 20, 8))
    raise AssertionError("the flood did not end")


FLOODS = {
    "one task": [Load("a", 4 * CAPACITY)],
    "two tasks": [Load(task, 2 * CAPACITY) for task in "ab"],
    "eight tasks": [Load(task, CAPACITY / 2) for task in "abcdefgh"],
    "forty tasks": [Load(f"t{n}", CAPACITY / 10) for n in range(40)],
    "long outputs": [Load("a", CAPACITY / 3, new=128)],
    "long outputs of two tasks": [Load(task, CAPACITY / 6, new=128) for task in "ab"],
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_a_quiet_task_waits_for_no_flood(flood: list[Load]) -> None:
    full = simulate([], steady=15)
    beside = simulate(flood)
    assert beside.refused == 0
    assert beside.p95 <= 2 * full.p95


def test_a_quiet_task_beside_long_prompts_waits_for_one_a_step() -> None:
    """An encode cannot be interrupted: here one of 500 tokens takes as long as four steps."""
    full = simulate([], steady=15)
    assert simulate([Load("a", CAPACITY / 2, prompt=500)]).p95 <= 4 * full.p95


def test_without_spare_rows_long_outputs_are_waited_for() -> None:
    """The model can tell: what the other test asserts is not so by itself."""
    full = simulate([], steady=15)
    assert simulate(FLOODS["long outputs"], spare=0).p95 > 2 * full.p95
