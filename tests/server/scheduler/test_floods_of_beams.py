"""Tasks that flood a scheduler with beam searches and with single rows, and what each one gets."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import EOS, FakeDetokenizer
from jumplora_server.core import (
    AdapterRef,
    Batch,
    Beams,
    Candidate,
    Encoding,
    EngineLimits,
    Sampling,
    Sequence,
    StepOutput,
)
from jumplora_server.scheduler.claims import Priority
from jumplora_server.scheduler.queue import task_of
from jumplora_server.scheduler.scheduler import Scheduler

OUTSTANDING = 12  # requests of a task at any time


@dataclass(frozen=True)
class Wish:
    """A request: how wide (1: no search), and how many tokens it takes."""

    width: int
    tokens: int
    priority: Priority = "normal"


@dataclass
class Flood:
    """Every task asks for the next of its wishes as soon as one has ended."""

    wishes: Mapping[str, Iterator[Wish]]
    rows: int
    spare: int
    steps: int = 0
    used: Counter[str] = field(default_factory=Counter)  # rows of all steps, by task
    longest: Counter[str] = field(
        default_factory=Counter
    )  # steps without a new row while one waits

    def __post_init__(self) -> None:
        limits = EngineLimits(self.rows + self.spare, 64, 200, (EOS,))
        self._scheduler = Scheduler(
            limits, self, max_encode_tokens=10_000, spare_rows=self.spare, low_patience_seconds=20.0
        )
        self._ids = itertools.count()
        self._open: Counter[str] = Counter()
        self._last = dict.fromkeys(self.wishes, 0)
        self._seen: set[int] = set()

    def claim(self, ref: AdapterRef, priority: Priority) -> tuple[int, ...]:
        return (1,)

    def unclaim(self, ref: AdapterRef) -> None:
        pass

    def run(self, steps: int) -> Flood:
        for _ in range(steps):
            self._ask()
            batch = self._scheduler.next_batch(float(self.steps))
            self._note(batch)
            self._scheduler.apply(batch, self._output(batch), self.steps + 0.5)
            for sequence, event in self._scheduler.take_events():
                if event.finish is not None:
                    assert event.finish.error is None
                    self._open[str(task_of(sequence))] -= 1
            self.steps += 1
        return self

    def _ask(self) -> None:
        for task, wishes in self.wishes.items():
            while self._open[task] < OUTSTANDING:
                wish = next(wishes)
                beams = None if wish.width == 1 else Beams(wish.width)
                encoding = Encoding(AdapterRef(task, task, (task,)), (5,) * 4)
                sampling = Sampling(wish.tokens, beams=beams)
                self._scheduler.add(
                    Sequence(
                        next(self._ids),
                        encoding,
                        sampling,
                        FakeDetokenizer(),
                        float(self.steps),
                        priority=wish.priority,
                        wants="end",
                    )
                )
                self._open[task] += 1

    def _note(self, batch: Batch) -> None:
        begun = {str(task_of(s)) for s in batch.decode if s.id not in self._seen}
        self._seen.update(sequence.id for sequence in batch.decode)
        self.used.update(str(task_of(sequence)) for sequence in batch.decode)
        for task in self.wishes:
            if task in begun:
                self._last[task] = self.steps
            self.longest[task] = max(self.longest[task], self.steps - self._last[task])

    def _output(self, batch: Batch) -> StepOutput:
        tokens = tuple(EOS + 1 + sequence.row for sequence in batch.decode)
        candidates = tuple(
            tuple(Candidate(70 + i, -1.0 - i) for i in range(s.sampling.beams.candidates(1)))
            if s.sampling.beams
            else ()
            for s in batch.decode
        )
        return StepOutput(tokens, (None,) * len(tokens), candidates=candidates)


@st.composite
def floods(draw: st.DrawFn) -> Flood:
    rows = draw(st.integers(2, 8))
    spare = draw(st.integers(0, 3))
    widths = st.sampled_from([1, 1, *range(2, rows + 1)])
    wish = st.builds(Wish, widths, st.integers(1, 12))
    kinds = draw(st.lists(st.lists(wish, min_size=1, max_size=4), min_size=1, max_size=6))
    wishes = {f"t{i}": itertools.cycle(kind) for i, kind in enumerate(kinds)}
    if draw(st.booleans()):
        wishes["low"] = itertools.cycle([Wish(1, draw(st.integers(1, 12)), "low")])
    return Flood(wishes, rows, spare)


@settings(max_examples=60, deadline=None)
@given(flood=floods())
def test_no_task_waits_for_ever(flood: Flood) -> None:
    """Each gets rows again and again, a search of all rows and a canary, too."""
    flood.run(400)
    most = 40 * len(flood.wishes)  # a turn is up to 12 steps, and as many until its rows are free
    assert max(flood.longest.values()) <= most, flood.longest


def short(seed: int) -> Iterator[Wish]:
    """Answers of a few tokens, and some of many."""
    rng = random.Random(seed)
    while True:
        yield Wish(1, 100 if rng.random() < 0.03 else rng.randint(1, 6))


FLOODS: dict[str, Callable[[int], Iterator[Wish]]] = {
    "searches": lambda rows: itertools.cycle([Wish(rows, 24)]),
    "searches of one token": lambda rows: itertools.cycle([Wish(rows, 1)]),
    "searches behind a long answer": lambda rows: itertools.cycle([Wish(1, 100), Wish(rows, 1)]),
    "small searches": lambda rows: itertools.cycle([Wish(2, 1)]),
}


@pytest.mark.parametrize("spare", [0, 2])
@pytest.mark.parametrize("others", [1, 4])
@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_searches_takes_its_share_and_not_more(
    flood: str, others: int, spare: int
) -> None:
    """Rows that are kept free for a search, and those it does not use, count as its task's."""
    rows = 8
    wishes = {f"t{i}": short(i) for i in range(others)}
    site = Flood({**wishes, "x": FLOODS[flood](rows)}, rows, spare).run(1500)
    share = rows / (others + 1)
    for task in wishes:
        assert site.used[task] / site.steps > 0.5 * share, site.used
