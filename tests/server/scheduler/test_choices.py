"""Sequences with choices in the scheduler: passes of one step, turns, and every way to end."""

from __future__ import annotations

import pytest

from fakes import EOS, FakeDetokenizer
from jumplora_server.core import (
    AdapterRef,
    Batch,
    Choices,
    Encoding,
    EngineLimits,
    Finish,
    FinishReason,
    Sampling,
    Sequence,
    StepOutput,
)
from jumplora_server.errors import GenerationFailed
from jumplora_server.scheduler.claims import Priority
from jumplora_server.scheduler.scheduler import Scheduler
from jumplora_server.trie import Trie
from walking import END, Ids, Model

NODES = 8
LIMITS = EngineLimits(
    max_rows=4, max_source_tokens=64, max_target_tokens=32, end_token_ids=(EOS,), max_nodes=NODES
)
FLAT = Model(seed=1, sharpness=0.0)
SMALL: list[Ids] = [(2, END), (4, 5, END)]  # 4 nodes
LARGE: list[Ids] = [(a, b, END) for a in (2, 3, 4) for b in (2, 3, 4)]  # 13 nodes, in 5 passes


class Bench:
    """A scheduler, what it claimed and what became of its sequences."""

    def __init__(self) -> None:
        self.claims: list[AdapterRef] = []
        self.scheduler = Scheduler(LIMITS, self, max_encode_tokens=100)
        self.finished: dict[int, Finish] = {}
        self.sequences = 0
        self.now = 0.0

    def claim(self, ref: AdapterRef, priority: Priority) -> tuple[int, ...]:
        del priority
        self.claims.append(ref)
        return (7,)

    def unclaim(self, ref: AdapterRef) -> None:
        self.claims.remove(ref)

    def add(
        self, offered: list[Ids] | None, *, task: str = "a", deadline: float | None = None
    ) -> Sequence:
        """With these options, or one that generates."""
        choices = None if offered is None else Choices(Trie.of(offered))
        sequence = Sequence(
            id=self.sequences,
            encoding=Encoding(AdapterRef(task, task, (task,)), (5, 6)),
            sampling=Sampling(20, choices=choices, logprobs="chosen"),
            detokenizer=FakeDetokenizer(),
            arrived=self.now,
            deadline=deadline,
        )
        self.sequences += 1
        self.scheduler.add(sequence)
        return sequence

    def next_batch(self) -> Batch:
        batch = self.scheduler.next_batch(self.now)
        self.note()
        return batch

    def step(self) -> list[int]:
        """One turn; the ids of the sequences that had a pass."""
        batch = self.next_batch()
        passes = [tuple(map(tuple, FLAT.compute(p.trie, p.nodes))) for p in batch.passes]
        self.apply(batch, tuple(passes))
        return [each.sequence.id for each in batch.passes]

    def apply(self, batch: Batch, passes: tuple[tuple[tuple[float, ...], ...], ...]) -> None:
        count = len(batch.decode)
        self.now += 1.0
        output = StepOutput((ord("x"),) * count, (None,) * count, passes=passes)
        self.scheduler.apply(batch, output, self.now)
        self.note()

    def note(self) -> None:
        for sequence, event in self.scheduler.take_events():
            if event.finish is not None:
                assert sequence.id not in self.finished, "an event after the last"
                self.finished[sequence.id] = event.finish

    def check_nothing_is_held(self) -> None:
        """Rows, places and leases are all free."""
        assert self.claims == []
        self.scheduler.check_idle()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_one_pass_answers_a_small_trie(bench: Bench) -> None:
    sequence = bench.add(SMALL)
    assert bench.step() == [sequence.id]
    finish = bench.finished[sequence.id]
    exact = tuple(FLAT.logprob(ids) for ids in SMALL)
    assert (finish.reason, finish.options, finish.text) == (FinishReason.EOS_TOKEN, exact, "")
    assert finish.generated_tokens == 2
    assert finish.score == exact[0] / 2
    assert finish.timing.first_token == 1.0
    bench.check_nothing_is_held()


def test_passes_share_what_a_step_computes(bench: Bench) -> None:
    first, second, third = (bench.add(SMALL) for _ in range(3))
    plain = bench.add(None)
    batch = bench.next_batch()
    assert [each.sequence for each in batch.passes] == [first, second]
    assert batch.decode == (plain,)
    assert len(batch.encode) == 4, "the third is encoded all the same"
    bench.apply(
        batch, tuple(tuple(map(tuple, FLAT.compute(p.trie, p.nodes))) for p in batch.passes)
    )
    assert bench.step() == [third.id]
    assert bench.finished.keys() == {first.id, second.id, third.id}


def test_a_trie_of_many_passes_takes_turns_with_others(bench: Bench) -> None:
    large, small, other = bench.add(LARGE), bench.add(SMALL), bench.add(SMALL)
    turns = [bench.step() for _ in range(3)]
    assert turns == [[large.id, small.id], [other.id, large.id], [large.id]]
    while large.id not in bench.finished:
        assert bench.step() == [large.id]
    assert None not in bench.finished[large.id].options
    bench.check_nothing_is_held()


def test_a_large_one_is_not_passed_over_for_ever(bench: Bench) -> None:
    """Small ones that keep coming would leave no step with room for it."""
    large = bench.add(LARGE)
    bench.step()
    for _ in range(12):
        bench.add(SMALL)
        bench.step()
    assert large.id in bench.finished


@pytest.mark.parametrize("how", ["cancel", "deadline", "nonfinite", "fail", "abort"])
def test_ends_in_the_middle_of_a_walk(bench: Bench, how: str) -> None:
    sequence = bench.add(LARGE, deadline=1.5 if how == "deadline" else None)
    bench.step()
    reason = FinishReason.ERROR
    if how == "cancel":
        bench.scheduler.cancel(sequence.id)
        reason = FinishReason.CANCELLED
    elif how == "deadline":
        bench.now = 2.0
        reason = FinishReason.TIMEOUT
    elif how == "nonfinite":
        bench.apply(bench.next_batch(), ((),))
    elif how == "fail":
        bench.scheduler.fail(bench.next_batch(), GenerationFailed("no"), bench.now)
    else:
        bench.scheduler.abort(GenerationFailed("no"), bench.now)
    assert bench.next_batch().is_empty()
    finish = bench.finished[sequence.id]
    assert (finish.reason, finish.options, finish.generated_tokens) == (reason, (), 0)
    bench.check_nothing_is_held()


def test_one_fails_alone(bench: Bench) -> None:
    bad, good = bench.add(SMALL), bench.add(SMALL)
    batch = bench.next_batch()
    numbers = tuple(map(tuple, FLAT.compute(batch.passes[1].trie, batch.passes[1].nodes)))
    bench.apply(batch, ((), numbers))
    error = bench.finished[bad.id].error
    assert isinstance(error, GenerationFailed)
    assert error.reason == "nonfinite"
    assert bench.finished[good.id].reason is FinishReason.EOS_TOKEN


def test_a_failed_step_ends_those_whose_prompts_it_encoded(bench: Bench) -> None:
    """The third had no pass in it, but its place was not written."""
    sequences = [bench.add(SMALL) for _ in range(3)]
    batch = bench.next_batch()
    assert len(batch.passes) == 2
    bench.scheduler.fail(batch, GenerationFailed("no"), bench.now)
    assert bench.next_batch().is_empty()
    assert [bench.finished[s.id].reason for s in sequences] == [FinishReason.ERROR] * 3
    bench.check_nothing_is_held()


def test_a_task_pays_for_its_nodes(bench: Bench) -> None:
    """Both tasks hold two rows and want another one: that which computed less gets it first."""
    walks = [bench.add(LARGE, task="walks") for _ in range(3)]
    writes = [bench.add(None, task="writes") for _ in range(3)]
    bench.step()
    bench.step()
    for running in (walks[0], writes[0]):
        bench.scheduler.cancel(running.id)
    bench.next_batch()
    assert writes[2].row < walks[2].row, "the lowest row goes first"
