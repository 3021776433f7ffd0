"""The scheduler under any order of events: every sequence ends once, rows are never shared."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from fakes import EOS, FakeDetokenizer
from jumplora_server.core import (
    AdapterRef,
    Batch,
    EngineLimits,
    Sampling,
    Sequence,
    StepOutput,
)
from jumplora_server.errors import AdapterUnavailable, GenerationFailed
from jumplora_server.scheduler.claims import Priority
from jumplora_server.scheduler.scheduler import Scheduler

ROWS, BUDGET = 3, 9
TASKS = st.sampled_from([None, "a", "b", "c"])
STATES = st.sampled_from(["ready", "cold", "broken"])


class SchedulerMachine(RuleBasedStateMachine):
    """The oracle is bookkeeping: who was added, who ended, who holds which row."""

    sequences = Bundle("sequences")

    def __init__(self) -> None:
        super().__init__()
        self.state = dict.fromkeys("abc", "ready")
        self.claims: list[AdapterRef] = []
        limits = EngineLimits(ROWS, 64, 6, (EOS,))
        self.scheduler = Scheduler(limits, self, max_encode_tokens=BUDGET)
        self.added: dict[int, Sequence] = {}
        self.ended: set[int] = set()
        self.admitted: dict[int, tuple[int, tuple[int, ...]]] = {}
        self.now = 0.0

    def claim(self, ref: AdapterRef, priority: Priority) -> tuple[int, ...] | None:
        if self.state[ref.task] == "broken":
            raise AdapterUnavailable("broken")
        if self.state[ref.task] == "cold":
            return None
        self.claims.append(ref)
        return (ord(ref.task),)

    def unclaim(self, ref: AdapterRef) -> None:
        self.claims.remove(ref)

    @rule(
        target=sequences,
        task=TASKS,
        prompt=st.integers(1, 12),
        tokens=st.integers(1, 8),
        patience=st.none() | st.floats(0.0, 5.0),
        priority=st.sampled_from(["normal", "normal", "low"]),
    )
    def add(
        self, task: str | None, prompt: int, tokens: int, patience: float | None, priority: Priority
    ) -> int:
        sequence = Sequence(
            id=len(self.added),
            ref=None if task is None else AdapterRef(task, task, (task,)),
            prompt=(5,) * prompt,
            sampling=Sampling(max_new_tokens=tokens, stop=("xy",)),
            detokenizer=FakeDetokenizer(),
            arrived=self.now,
            deadline=None if patience is None else self.now + patience,
            priority=priority,
        )
        self.added[sequence.id] = sequence
        self.scheduler.add(sequence)
        return sequence.id

    @rule(sequence_id=sequences)
    def cancel(self, sequence_id: int) -> None:
        self.scheduler.cancel(sequence_id)

    @rule(task=st.sampled_from("abc"), state=STATES)
    def change(self, task: str, state: str) -> None:
        self.state[task] = state

    @rule(data=st.data(), outcome=st.sampled_from(["step", "step", "step", "fail"]))
    def turn(self, data: st.DataObject, outcome: str) -> None:
        batch = self.scheduler.next_batch(self.now)
        self.check_batch(batch)
        self.now += 0.5
        if outcome == "fail":
            self.scheduler.fail(batch, GenerationFailed("no"), self.now)
        elif not batch.is_empty():
            token = st.sampled_from([ord("x"), ord("y"), EOS])
            count = len(batch.decode)
            tokens = tuple(data.draw(st.lists(token, min_size=count, max_size=count)))
            failed = tuple(data.draw(st.sets(st.integers(0, count - 1), max_size=1)))
            self.scheduler.apply(
                batch, StepOutput(tokens, (None,) * count, failed=failed), self.now
            )
        self.take_events()

    def check_batch(self, batch: Batch) -> None:
        self.take_events()
        rows = [sequence.row for sequence in batch.decode]
        assert rows == sorted(set(rows)), "rows are shared or out of order"
        assert set(rows) <= set(range(ROWS))
        assert set(batch.encode) <= set(batch.decode)
        assert sum(len(s.prompt) for s in batch.encode) <= BUDGET or len(batch.encode) == 1
        kept = {self.admitted[i][0] for i in self.admitted.keys() - self.ended}
        free = sorted(set(range(ROWS)) - kept)
        assert [s.row for s in batch.encode] == free[: len(batch.encode)], "lowest free row first"
        for sequence in batch.encode:
            assert sequence.id not in self.admitted, "encoded twice"
            self.admitted[sequence.id] = (sequence.row, sequence.slots)
        for sequence in batch.decode:
            assert self.admitted[sequence.id] == (sequence.row, sequence.slots), "moved"
        alive = self.admitted.keys() - self.ended
        assert {sequence.id for sequence in batch.decode} == alive, "every live row decodes"

    def take_events(self) -> None:
        for sequence, event in self.scheduler.take_events():
            assert sequence.id in self.added
            assert sequence.id not in self.ended, "an event after the last"
            if event.finish is not None:
                self.ended.add(sequence.id)
                assert event.finish.text == sequence.text
                assert "xy" not in event.finish.text

    @invariant()
    def claims_are_rows(self) -> None:
        alive = [self.added[i] for i in self.admitted.keys() - self.ended]
        expected = sorted(s.ref.task for s in alive if s.ref is not None)
        assert sorted(ref.task for ref in self.claims) == expected
        assert self.scheduler.running == len(alive)

    @precondition(lambda self: len(self.ended) < len(self.added))
    @rule()
    def everything_ends(self) -> None:
        """With all versions loaded, nobody waits longer than it takes to serve everybody."""
        self.state = dict.fromkeys("abc", "ready")
        for _ in range(8 * len(self.added) + 8):
            batch = self.scheduler.next_batch(self.now)
            self.check_batch(batch)
            self.now += 0.5
            self.scheduler.apply(
                batch,
                StepOutput((ord("x"),) * len(batch.decode), (None,) * len(batch.decode)),
                self.now,
            )
            self.take_events()
        assert self.ended == self.added.keys()
        self.scheduler.check_idle()

    def teardown(self) -> None:
        self.scheduler.abort(GenerationFailed("stopped"), self.now)
        self.take_events()
        assert self.ended == self.added.keys()
        assert self.claims == []
        self.scheduler.check_idle()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
