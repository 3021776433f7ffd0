"""The scheduler under any order of events: every sequence ends once, rows are never shared."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from fakes import EOS, FakeDetokenizer
from jumplora_server.core import (
    AdapterRef,
    Batch,
    Beams,
    Candidate,
    Choices,
    Encoding,
    EngineLimits,
    Finish,
    FinishReason,
    Sampling,
    Sequence,
    StepOutput,
)
from jumplora_server.errors import AdapterUnavailable, GenerationFailed
from jumplora_server.scheduler.claims import Priority
from jumplora_server.scheduler.scheduler import Scheduler
from jumplora_server.trie import Trie
from walking import Ids, Model, check_pass, options

ROWS, BUDGET, NODES, START = 5, 9, 6, -1
MODEL = Model(seed=0, sharpness=4.0)
TASKS = st.sampled_from([None, "a", "b", "c"])
STATES = st.sampled_from(["ready", "cold", "broken"])


def output_of(batch: Batch, tokens: list[int], failed: tuple[int, ...] = ()) -> StepOutput:
    """What an engine says of these tokens; beams like them best, and two others."""
    candidates = [
        ()
        if sequence.sampling.beams is None or index in failed
        else tuple(Candidate(t, -1.0 - i) for i, t in enumerate(dict.fromkeys((token, *b"zy", 1))))
        for index, (sequence, token) in enumerate(zip(batch.decode, tokens, strict=True))
    ]
    passes = [tuple(map(tuple, MODEL.compute(each.trie, each.nodes))) for each in batch.passes]
    return StepOutput(
        tuple(tokens),
        (None,) * len(tokens),
        failed,
        candidates=tuple(candidates),
        passes=tuple(passes),
    )


def check_answers(finish: Finish, sequence: Sequence) -> None:
    """As many as were asked for, the best first, and what is said of the whole is of the first."""
    beams, answers = sequence.sampling.beams, finish.answers
    assert beams is not None
    assert len(answers) == beams.answers
    scores = [answer.score or 0.0 for answer in answers]
    assert scores == sorted(scores, reverse=True)
    assert (finish.text, finish.reason) == (answers[0].text, answers[0].reason)
    for answer in answers:
        assert answer.text == "".join(chr(t.id) for t in answer.tokens if t.id != EOS)
        assert "".join(t.text for t in answer.tokens) == answer.text
        assert len({tuple(t.id for t in a.tokens) for a in answers}) == len(answers)


def check_options(finish: Finish, sequence: Sequence) -> None:
    """Those that were looked at have the model's numbers, and the best one is among them."""
    choices = sequence.sampling.choices
    assert choices is not None
    exact = [MODEL.logprob(ids) for ids in choices.trie.ids]
    assert all(found in (None, value) for found, value in zip(finish.options, exact, strict=True))
    best = exact.index(max(exact))
    assert finish.options[best] is not None
    assert finish.reason is FinishReason.EOS_TOKEN
    assert finish.generated_tokens == len(choices.trie.ids[best])


class SchedulerMachine(RuleBasedStateMachine):
    """The oracle is bookkeeping: who was added, who ended, who holds which row."""

    sequences = Bundle("sequences")

    def __init__(self) -> None:
        super().__init__()
        self.state = dict.fromkeys("abc", "ready")
        self.claims: list[AdapterRef] = []
        self.scheduler = self.make_scheduler(spare_rows=0)
        self.added: dict[int, Sequence] = {}
        self.ended: set[int] = set()
        self.rows: dict[int, set[int]] = {}  # by sequence, once admitted
        self.fed: dict[int, list[int]] = {}  # what each row of the caches was fed
        self.new: set[int] = set()  # that got their rows in this turn
        self.encoded: dict[Encoding, tuple[int, tuple[int, ...]]] = {}  # its place and slots
        self.now = 0.0

    def make_scheduler(self, spare_rows: int) -> Scheduler:
        limits = EngineLimits(ROWS, 64, 6, (EOS,), max_nodes=NODES)
        return Scheduler(limits, self, max_encode_tokens=BUDGET, spare_rows=spare_rows)

    @initialize(spare_rows=st.integers(0, ROWS - 3))
    def keep_rows_back(self, spare_rows: int) -> None:
        self.scheduler = self.make_scheduler(spare_rows)

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
        beams=st.sampled_from([None, None, Beams(2, answers=2), Beams(3, early_stopping=True)]),
    )
    def add(
        self,
        task: str | None,
        prompt: int,
        tokens: int,
        patience: float | None,
        priority: Priority,
        beams: Beams | None,
    ) -> int:
        if priority == "low":
            beams = None
        sequence = Sequence(
            id=len(self.added),
            encoding=Encoding(
                None if task is None else AdapterRef(task, task, (task,)), (5,) * prompt
            ),
            sampling=Sampling(tokens, stop=() if beams else ("xy",), beams=beams),
            detokenizer=FakeDetokenizer(),
            arrived=self.now,
            deadline=None if patience is None else self.now + patience,
            priority=priority,
        )
        self.added[sequence.id] = sequence
        self.scheduler.add(sequence)
        return sequence.id

    @rule(target=sequences, sibling=sequences, tokens=st.integers(1, 8))
    def add_another_answer(self, sibling: int, tokens: int) -> int:
        """To the same prompt, as long as that has sequences."""
        first = self.added[sibling]
        if not first.encoding.sequences:
            return sibling
        sequence = Sequence(
            id=len(self.added),
            encoding=first.encoding,
            sampling=Sampling(max_new_tokens=tokens, stop=("xy",)),
            detokenizer=FakeDetokenizer(),
            arrived=self.now,
            priority=first.priority,
        )
        self.added[sequence.id] = sequence
        self.scheduler.add(sequence)
        return sequence.id

    @rule(
        target=sequences,
        task=TASKS,
        prompt=st.integers(1, 12),
        patience=st.none() | st.floats(0.0, 5.0),
        offered=options(most=5, longest=5),
    )
    def add_choices(
        self, task: str | None, prompt: int, patience: float | None, offered: list[Ids]
    ) -> int:
        sequence = Sequence(
            id=len(self.added),
            encoding=Encoding(
                None if task is None else AdapterRef(task, task, (task,)), (5,) * prompt
            ),
            sampling=Sampling(1, choices=Choices(Trie.of(offered))),
            detokenizer=FakeDetokenizer(),
            arrived=self.now,
            deadline=None if patience is None else self.now + patience,
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
            for encoding in batch.encode:  # never written: encoded again for those that wait
                del self.encoded[encoding]
        elif not batch.is_empty():
            token = st.sampled_from([ord("x"), ord("y"), EOS])
            count = len(batch.decode)
            tokens = data.draw(st.lists(token, min_size=count, max_size=count))
            failures = st.sets(st.integers(0, count - 1), max_size=1) if count else st.just(set())
            failed = tuple(data.draw(failures))
            output = output_of(batch, tokens, failed)
            if batch.passes and data.draw(st.integers(0, 9)) == 0:
                output = replace(output, passes=((), *output.passes[1:]))
            self.scheduler.apply(batch, output, self.now)
        self.take_events()

    def check_batch(self, batch: Batch) -> None:
        self.take_events()
        rows = [sequence.row for sequence in batch.decode]
        assert rows == sorted(set(rows)), "rows are shared or out of order"
        assert set(rows) <= set(range(ROWS))
        walkers = self.check_passes(batch)
        running = [*batch.decode, *walkers]
        assert set(batch.encode) <= {sequence.encoding for sequence in running}
        assert sum(len(s.prompt) for s in batch.encode) <= BUDGET or len(batch.encode) == 1
        self.check_rows(batch, walkers)
        for encoding in batch.encode:
            if encoding in self.encoded:  # its place was wanted while none of its sequences ran
                older = self.rows.keys() - self.ended - self.new
                assert encoding not in {self.added[i].encoding for i in older}, "encoded twice"
            self.encoded[encoding] = (encoding.place, encoding.slots)
        for sequence in running:
            encoding = sequence.encoding
            assert self.encoded[encoding] == (encoding.place, encoding.slots), "moved"
        alive = self.rows.keys() - self.ended
        assert {sequence.id for sequence in running} == alive, "every live row is computed"
        held = self.held()
        places = [encoding.place for encoding in held]
        assert len(set(places)) == len(held), "a source place is shared"
        assert set(places) <= set(range(ROWS))

    def check_passes(self, batch: Batch) -> list[Sequence]:
        """Passes keep their promises, and some sequence with choices gets one if any has a row.

        Returns those that have one.
        """
        alive = [self.added[i] for i in self.added.keys() - self.ended]
        walkers = [s for s in alive if s.sampling.choices is not None and s.row >= 0]
        served = [each.sequence for each in batch.passes]
        assert all(sequence in walkers for sequence in served)
        assert len({sequence.id for sequence in served}) == len(served)
        assert bool(served) == bool(walkers)
        for each in batch.passes:
            check_pass(each.trie, each.nodes, NODES)
        assert sum(len(each.nodes) for each in batch.passes) <= NODES
        return walkers

    def check_rows(self, batch: Batch, walkers: list[Sequence]) -> None:
        """Rows are free before they are taken, and what is in their caches is what is decoded."""
        sources, targets = {c.source for c in batch.copies}, {c.row for c in batch.copies}
        assert not sources & targets
        assert len(targets) == len(batch.copies)
        for copy in batch.copies:
            same = self.fed[copy.source][: copy.same]
            assert self.fed.get(copy.row, [])[: copy.same] == same, "they have other tokens"
            self.fed[copy.row] = self.fed[copy.source][: copy.tokens]
            assert len(self.fed[copy.row]) == copy.tokens, "tokens that were never fed"
        self.new = {sequence.id for sequence in (*batch.decode, *walkers)} - self.rows.keys()
        for sequence in walkers:
            others = [self.rows[i] for i in self.rows.keys() - self.ended - {sequence.id}]
            assert all(sequence.row not in rows for rows in others), "a row is shared"
            assert self.rows.setdefault(sequence.id, {sequence.row}) == {sequence.row}, "moved"
        for sequence in batch.decode:
            others = [self.rows[i] for i in self.rows.keys() - self.ended - {sequence.id}]
            assert all(sequence.row not in rows for rows in others), "a row is shared"
            self.rows.setdefault(sequence.id, set()).add(sequence.row)
            if not sequence.output:
                self.fed[sequence.row] = []
            self.fed[sequence.row].append(sequence.output[-1] if sequence.output else START)
            assert self.fed[sequence.row] == [START, *sequence.output], "not its own tokens"
            beams = self.added[sequence.id].sampling.beams
            assert len(self.rows[sequence.id]) <= (1 if beams is None else beams.width), "moved"
        kept = {row for i in self.rows.keys() - self.ended - self.new for row in self.rows[i]}
        if all(self.added[i].sampling.beams is None for i in self.rows.keys() - self.ended):
            free = sorted(set(range(ROWS)) - kept)
            new = sorted(s.row for s in (*batch.decode, *walkers) if s.id in self.new)
            assert new == free[: len(new)], "lowest free row first"

    def held(self) -> set[Encoding]:
        """The encodings that some sequence may still read."""
        alive = {self.added[i].encoding for i in self.added.keys() - self.ended}
        return {encoding for encoding in alive if encoding.place >= 0}

    def take_events(self) -> None:
        for sequence, event in self.scheduler.take_events():
            assert sequence.id in self.added
            assert sequence.id not in self.ended, "an event after the last"
            if event.finish is not None:
                self.ended.add(sequence.id)
                if event.finish.answers:
                    check_answers(event.finish, sequence)
                elif event.finish.options:
                    check_options(event.finish, sequence)
                else:
                    assert event.finish.text == sequence.text
                    assert "xy" not in event.finish.text

    @invariant()
    def claims_are_encodings(self) -> None:
        expected = sorted(e.ref.task for e in self.held() if e.ref is not None)
        assert sorted(ref.task for ref in self.claims) == expected
        running = [self.added[i].sampling.beams for i in self.rows.keys() - self.ended]
        assert self.scheduler.running == sum(1 if b is None else b.width for b in running)

    @precondition(lambda self: len(self.ended) < len(self.added))
    @rule()
    def everything_ends(self) -> None:
        """With all versions loaded, nobody waits longer than it takes to serve everybody."""
        self.state = dict.fromkeys("abc", "ready")
        for _ in range(16 * len(self.added) + 16):
            batch = self.scheduler.next_batch(self.now)
            self.check_batch(batch)
            self.now += 0.5
            self.scheduler.apply(batch, output_of(batch, [ord("x")] * len(batch.decode)), self.now)
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
