"""The scheduler: rows, budget, priorities, deadlines, finish reasons, and exactly one end each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal

import pytest

from fakes import EOS, FakeDetokenizer
from jumplora_server.core import (
    AdapterRef,
    Batch,
    Beams,
    Candidate,
    Detokenizer,
    Encoding,
    EngineLimits,
    Finish,
    FinishReason,
    Sampling,
    Sequence,
    StepOutput,
    Wanted,
)
from jumplora_server.errors import AdapterUnavailable, GenerationFailed
from jumplora_server.scheduler.queue import OUTPUT_TOKEN
from jumplora_server.scheduler.scheduler import Scheduler

LIMITS = EngineLimits(max_rows=3, max_source_tokens=64, max_target_tokens=32, end_token_ids=(EOS,))


class Shelves:
    """Versions that a test makes cold, broken or hidden."""

    def __init__(self) -> None:
        self.cold: set[str] = set()
        self.broken: set[str] = set()
        self.hidden: set[str] = set()
        self.claims: list[AdapterRef] = []

    def claim(self, ref: AdapterRef, priority: Literal["normal", "low"]) -> tuple[int, ...] | None:
        if ref.version in self.broken:
            raise AdapterUnavailable("broken", reason="digest")
        if ref.version in self.cold or (ref.version in self.hidden and priority == "normal"):
            return None
        self.claims.append(ref)
        return (7,)

    def unclaim(self, ref: AdapterRef) -> None:
        self.claims.remove(ref)


class Bench:
    """A scheduler with its sequences and what became of them."""

    def __init__(
        self, limits: EngineLimits = LIMITS, max_encode_tokens: int = 100, spare_rows: int = 0
    ) -> None:
        self.shelves = Shelves()
        self.scheduler = Scheduler(
            limits, self.shelves, max_encode_tokens=max_encode_tokens, spare_rows=spare_rows
        )
        self.sequences: list[Sequence] = []
        self.shown: dict[int, str] = {}
        self.finished: dict[int, Finish] = {}
        self.now = 0.0

    def add(
        self,
        task: str | None = "a",
        prompt: int = 2,
        *,
        priority: Literal["normal", "low"] = "normal",
        deadline: float | None = None,
        max_new_tokens: int = 5,
        stop: tuple[str, ...] = (),
        wants: Wanted = "tokens",
        detokenizer: Detokenizer | None = None,
        beams: Beams | None = None,
    ) -> Sequence:
        sequence = Sequence(
            id=len(self.sequences),
            encoding=Encoding(
                None if task is None else AdapterRef(task, task, (task,)), (5,) * prompt
            ),
            sampling=Sampling(max_new_tokens, stop=stop, beams=beams),
            detokenizer=detokenizer or FakeDetokenizer(),
            arrived=self.now,
            deadline=deadline,
            priority=priority,
            wants=wants,
        )
        self.sequences.append(sequence)
        self.scheduler.add(sequence)
        return sequence

    def add_another(self, first: Sequence, *, max_new_tokens: int = 5) -> Sequence:
        """Another answer to the same prompt."""
        sequence = Sequence(
            id=len(self.sequences),
            encoding=first.encoding,
            sampling=Sampling(max_new_tokens=max_new_tokens),
            detokenizer=FakeDetokenizer(),
            arrived=self.now,
            priority=first.priority,
        )
        self.sequences.append(sequence)
        self.scheduler.add(sequence)
        return sequence

    def next_batch(self) -> Batch:
        batch = self.scheduler.next_batch(self.now)
        self.note()
        return batch

    def step(self, token: Callable[[Sequence], int] = lambda s: ord("x")) -> Batch:
        """One turn, in which every row gets its token."""
        batch = self.next_batch()
        self.apply(batch, tuple(token(sequence) for sequence in batch.decode))
        return batch

    def apply(self, batch: Batch, tokens: tuple[int, ...], failed: tuple[int, ...] = ()) -> None:
        candidates = tuple(
            tuple(Candidate(t, -1.0 - i) for i, t in enumerate(dict.fromkeys((token, *b"zyxw"))))
            for token in tokens
        )
        output = StepOutput(tokens, (None,) * len(tokens), failed, 0.25, candidates)
        self.now += 1.0
        self.scheduler.apply(batch, output, self.now)
        self.note()

    def note(self) -> None:
        for sequence, event in self.scheduler.take_events():
            assert sequence.id not in self.finished, "an event after the last"
            if event.token is not None:
                self.shown[sequence.id] = self.shown.get(sequence.id, "") + event.token.text
            if event.finish is not None:
                self.finished[sequence.id] = event.finish

    def reason(self, sequence: Sequence) -> FinishReason:
        return self.finished[sequence.id].reason


def ids(sequences: Iterable[Sequence]) -> list[int]:
    return [sequence.id for sequence in sequences]


def new(batch: Batch) -> list[int]:
    """The sequences whose prompts are encoded."""
    return ids(sequence for sequence in batch.decode if sequence.encoding in batch.encode)


def test_rows_are_given_lowest_first_and_kept() -> None:
    bench = Bench()
    a, b, c, d = (bench.add() for _ in range(4))
    first = bench.step()
    assert [s.row for s in (a, b, c, d)] == [0, 1, 2, -1]
    assert (new(first), ids(first.decode)) == ([0, 1, 2], [0, 1, 2])
    bench.step(lambda s: EOS if s is b else ord("x"))
    assert b.row == -1
    third = bench.step()
    assert (new(third), ids(third.decode)) == ([3], [0, 3, 2]), "in order of their rows"
    assert (a.row, d.row, c.row) == (0, 1, 2)


def test_the_token_budget_bounds_a_step_but_never_stops_it() -> None:
    bench = Bench(max_encode_tokens=10)
    for prompt in (40, 6, 4, 1):
        bench.add(prompt=prompt)
    assert new(bench.step()) == [0], "larger than the budget, but alone"
    assert new(bench.step()) == [1, 2]


def test_a_long_prompt_is_not_overtaken_for_ever() -> None:
    bench = Bench(max_encode_tokens=10)
    bench.add("a", prompt=8)
    bench.add("b", prompt=9)
    bench.add("c", prompt=1)
    assert new(bench.step()) == [0], "c has to wait behind b"
    assert new(bench.step()) == [1]
    assert new(bench.step()) == [2]


def test_a_quarter_of_the_budget_where_rows_of_several_tasks_wait_for_the_step() -> None:
    bench = Bench(EngineLimits(8, 64, 32, (EOS,)), max_encode_tokens=16)
    for _ in range(3):
        bench.add("a", prompt=4)
    assert new(bench.step()) == [0, 1, 2], "alone, a has all of it"
    for task in "bca":
        bench.add(task, prompt=2)
    assert new(bench.step()) == [3, 4]
    assert new(bench.step()) == [5]


@pytest.mark.parametrize(
    ("tokens", "options", "reason", "text"),
    [
        pytest.param("abc\x01", {}, FinishReason.EOS_TOKEN, "abc", id="eos"),
        pytest.param("abcdefg", {}, FinishReason.LENGTH, "abcde", id="length"),
        pytest.param("abcd\x01", {}, FinishReason.EOS_TOKEN, "abcd", id="eos as the last token"),
        pytest.param("abcd", {"stop": ("bc",)}, FinishReason.STOP_SEQUENCE, "a", id="stop"),
        pytest.param("abcde", {"stop": ("de",)}, FinishReason.STOP_SEQUENCE, "abc", id="stop last"),
        pytest.param("abcdef", {"stop": ("ef",)}, FinishReason.LENGTH, "abcde", id="held, length"),
        pytest.param("ab\x01", {"stop": ("bc",)}, FinishReason.EOS_TOKEN, "ab", id="held, eos"),
        pytest.param("\x01", {}, FinishReason.EOS_TOKEN, "", id="eos at once"),
        pytest.param("x" * 40, {"max_new_tokens": 99}, FinishReason.LENGTH, "x" * 32, id="cache"),
    ],
)
def test_finish_reasons(
    tokens: str, options: dict[str, Any], reason: FinishReason, text: str
) -> None:
    bench = Bench()
    sequence = bench.add(**options)
    while sequence.id not in bench.finished:
        bench.step(lambda s: ord(tokens[len(s.output)]))
    finish = bench.finished[sequence.id]
    assert (finish.reason, finish.text) == (reason, text)
    assert bench.shown[sequence.id] == text, "what was streamed is the text"
    assert finish.generated_tokens == len(sequence.output)
    assert bench.shelves.claims == []


@pytest.mark.parametrize(
    ("ends", "reason", "text"),
    [
        ((EOS,), FinishReason.LENGTH, "abcde"),
        ((EOS, ord("d"), ord("c")), FinishReason.EOS_TOKEN, "ab"),
        ((ord("e"),), FinishReason.EOS_TOKEN, "abcd"),
        ((), FinishReason.LENGTH, "abcde"),
    ],
    ids=["another", "several", "as the last token", "none"],
)
def test_any_end_token_ends_an_answer_and_has_no_text(
    ends: tuple[int, ...], reason: FinishReason, text: str
) -> None:
    bench = Bench(EngineLimits(3, 64, 32, ends))
    whole, silent = bench.add(), bench.add(wants="end")
    while len(bench.finished) < 2:
        bench.step(lambda s: ord("abcde"[len(s.output)]))
    for sequence in (whole, silent):
        finish = bench.finished[sequence.id]
        assert (finish.reason, finish.text) == (reason, text)
    assert bench.shown[whole.id] == text


def test_timing_is_measured_from_arrival() -> None:
    bench = Bench()
    bench.now = 2.0
    sequence = bench.add(max_new_tokens=2)
    bench.now = 5.0
    bench.step()
    bench.step()
    timing = bench.finished[sequence.id].timing
    assert (timing.queue, timing.encode, timing.decode) == (3.0, 0.25, 1.75)
    assert (timing.first_token, timing.total) == (4.0, 5.0)


def test_cancelled_rows_are_free_at_the_next_step() -> None:
    bench = Bench()
    running, _, _, waiting = (bench.add() for _ in range(4))
    bench.step()
    bench.scheduler.cancel(running.id)
    bench.scheduler.cancel(waiting.id)
    bench.scheduler.cancel(12345)
    last = bench.add()
    batch = bench.step()
    assert bench.reason(running) is bench.reason(waiting) is FinishReason.CANCELLED
    assert bench.finished[running.id].text == "x"
    assert (new(batch), last.row) == ([last.id], 0)
    bench.scheduler.cancel(running.id)
    bench.step()


@pytest.mark.parametrize("where", ["waiting", "running"])
def test_deadlines_end_waiting_and_running_sequences(where: str) -> None:
    bench = Bench()
    if where == "waiting":
        bench.shelves.cold.add("a")
    sequence = bench.add(deadline=1.0)
    bench.step()
    assert bench.scheduler.next_wake() == 1.0
    bench.step()
    assert bench.reason(sequence) is FinishReason.TIMEOUT
    assert bench.finished[sequence.id].generated_tokens == (0 if where == "waiting" else 1)
    assert bench.scheduler.next_wake() is None
    bench.scheduler.check_idle()


def test_a_cold_adapter_is_passed_over() -> None:
    bench = Bench()
    bench.shelves.cold.add("cold")
    cold, warm = bench.add("cold"), bench.add("warm")
    assert new(bench.step()) == [warm.id]
    bench.shelves.cold.clear()
    assert new(bench.step()) == [cold.id]


def test_a_failed_load_ends_those_who_wait_for_it() -> None:
    bench = Bench()
    bench.shelves.broken.add("broken")
    first, other, second = bench.add("broken"), bench.add("fine"), bench.add("broken")
    assert ids(bench.step().decode) == [other.id]
    for sequence in (first, second):
        finish = bench.finished[sequence.id]
        assert finish.reason is FinishReason.ERROR
        assert isinstance(finish.error, AdapterUnavailable)
        assert finish.error.reason == "digest"


def test_low_priority_takes_only_rows_that_are_left() -> None:
    bench = Bench()
    low = bench.add("low", priority="low")
    normal = [bench.add() for _ in range(4)]
    assert new(bench.next_batch()) == ids(tuple(normal[:3]))
    assert low.row == -1
    assert bench.scheduler.waiting == 1, "a warm-up is no traffic"


def test_low_priority_does_not_starve() -> None:
    bench = Bench()
    for _ in range(9):
        bench.add(max_new_tokens=1)
    low = bench.add("low", priority="low")
    bench.step()
    bench.now += 1.0
    assert low.id in new(bench.step())


def test_low_priority_that_waited_takes_one_row_at_a_time() -> None:
    bench = Bench()
    for _ in range(12):
        bench.add(max_new_tokens=1)
    low = [bench.add("low", priority="low", max_new_tokens=1) for _ in range(3)]
    bench.step()
    for expected in low:
        bench.now += 1.0
        batch = bench.step()
        assert set(new(batch)) & set(ids(low)) == {expected.id}
        assert len(batch.encode) == 3


def test_low_priority_takes_all_rows_that_nobody_wants() -> None:
    bench = Bench()
    low = [bench.add("low", priority="low") for _ in range(3)]
    assert new(bench.step()) == ids(tuple(low))


def test_low_priority_takes_one_of_the_rows_that_are_kept_back_at_most() -> None:
    bench = Bench(EngineLimits(4, 64, 32, (EOS,)), spare_rows=2)
    for _ in range(4):
        bench.add("a")
    low = [bench.add("low", priority="low") for _ in range(2)]
    assert new(bench.step()) == [0, 1], "both wait, the spare rows are kept back"
    assert low[0].id in new(bench.step()), "it waited"
    assert low[1].id not in new(bench.step())
    quiet = bench.add("quiet")
    assert new(bench.step()) == [quiet.id]


def test_low_priority_may_use_what_is_not_in_service_yet() -> None:
    bench = Bench()
    bench.shelves.hidden.add("new")
    normal, low = bench.add("new"), bench.add("new", priority="low")
    assert new(bench.step()) == [low.id]
    assert normal.id not in bench.finished
    assert bench.scheduler.running_tasks() == frozenset()
    assert bench.scheduler.waiting_tasks() == {"new"}


def test_a_failed_step_ends_its_batch_only() -> None:
    bench = Bench()
    for _ in range(4):
        bench.add()
    batch = bench.next_batch()
    error = GenerationFailed("no")
    bench.scheduler.fail(batch, error, 1.0)
    bench.note()
    assert sorted(bench.finished) == [0, 1, 2]
    assert all(f.error is error and f.reason is FinishReason.ERROR for f in bench.finished.values())
    assert new(bench.step()) == [3]


def test_a_prompt_of_a_failed_step_is_encoded_again_for_those_that_wait() -> None:
    bench = Bench()
    first = bench.add()
    for _ in range(3):
        bench.add_another(first)
    failed = bench.next_batch()
    assert len(failed.decode) == 3
    bench.scheduler.fail(failed, GenerationFailed("no"), 1.0)
    bench.note()
    assert bench.shelves.claims == []
    again = bench.step()
    assert (again.encode, ids(again.decode)) == ((first.encoding,), [3])
    bench.scheduler.fail(bench.next_batch(), GenerationFailed("no"), 2.0)
    bench.scheduler.check_idle()
    assert bench.shelves.claims == []


def test_a_row_that_is_not_finite_fails_alone() -> None:
    bench = Bench()
    bad, good = bench.add(), bench.add()
    bench.apply(bench.next_batch(), (-1, ord("x")), failed=(0,))
    assert isinstance(bench.finished[bad.id].error, GenerationFailed)
    assert bench.finished[bad.id].generated_tokens == 0
    assert good.output == [ord("x")]


def test_abort_ends_everything() -> None:
    bench = Bench()
    bench.add()
    bench.add()
    bench.add(priority="low")
    bench.next_batch()
    bench.add()
    bench.scheduler.abort(GenerationFailed("stopped"), 1.0)
    bench.note()
    assert sorted(bench.finished) == [0, 1, 2, 3]
    bench.scheduler.check_idle()


def test_the_backbone_needs_no_slots() -> None:
    bench = Bench()
    sequence = bench.add(None)
    bench.step()
    assert sequence.encoding.slots == ()
    assert bench.shelves.claims == []


def test_one_flooding_task_does_not_delay_another() -> None:
    """A task that floods at ten times the rate: the other one is served as if it had its share."""
    bench = Bench(EngineLimits(2, 64, 32, (EOS,)))
    for _ in range(40):
        bench.add("flood", max_new_tokens=4)
    victims = [bench.add("victim", max_new_tokens=4) for _ in range(4)]
    turns = 0
    while any(victim.id not in bench.finished for victim in victims):
        bench.step()
        turns += 1
    # Alone, 4 sequences of 4 tokens on 2 rows take 8 steps; with half of the rows 16.
    assert turns <= 20


class Broken(FakeDetokenizer):
    def push(self, token_id: int) -> str:
        raise ValueError("no text for it")


def test_tokens_without_a_text_end_their_sequence_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    broken = bench.add(detokenizer=Broken())
    sound = bench.add()
    bench.step()
    assert bench.reason(broken) is FinishReason.ERROR
    assert "could not be made a text" in caplog.text
    bench.step(lambda s: EOS)
    assert (bench.reason(sound), bench.finished[sound.id].text) == (FinishReason.EOS_TOKEN, "x")


def test_a_prompt_is_encoded_once_for_all_of_its_sequences() -> None:
    bench = Bench()
    first = bench.add("a", prompt=7)
    second = bench.add_another(first)
    batch = bench.step()
    assert batch.encode == (first.encoding,)
    assert ids(batch.decode) == [first.id, second.id]
    assert (first.row, second.row, first.encoding.place) == (0, 1, 0)
    assert len(bench.shelves.claims) == 1, "an encoding claims its version, not a sequence"
    assert bench.step().encode == ()


def test_a_place_is_held_until_the_last_of_its_sequences_ends() -> None:
    bench = Bench()
    first = bench.add("a", max_new_tokens=1)
    second = bench.add_another(first, max_new_tokens=3)
    bench.step()
    assert (first.row, second.row, first.encoding.place) == (-1, 1, 0)
    other = bench.add("b", max_new_tokens=5)
    bench.step()
    assert (other.row, other.encoding.place) == (0, 1), "the row is free, the place is not"
    bench.step()
    assert (second.row, second.encoding.place) == (-1, -1)
    assert bench.shelves.claims == [other.encoding.ref]
    third = bench.add("c")
    bench.step()
    assert (third.row, third.encoding.place) == (1, 0)


def test_a_sequence_that_waits_goes_on_from_the_prompt_that_was_encoded() -> None:
    bench = Bench()
    first = bench.add("a", max_new_tokens=2)
    for _ in range(2):
        bench.add("b", max_new_tokens=2)
    late = bench.add_another(first)
    bench.step()
    assert late.row == -1, "no row is free"
    bench.step()
    assert (first.row, first.encoding.place) == (-1, 0), "the one that waits holds the place"
    batch = bench.step()
    assert batch.encode == ()
    assert late in batch.decode
    timing = bench.finished[first.id].timing
    assert timing.encode == 0.25
    while late.id not in bench.finished:
        bench.step()
    assert bench.finished[late.id].timing.encode == 0.0, "its prompt was there"
    assert first.encoding.place == -1


def test_cancelling_all_sequences_of_a_prompt_frees_it_once() -> None:
    bench = Bench()
    first = bench.add("a")
    second = bench.add_another(first)
    waiting = bench.add("b")
    bench.step()
    for sequence in (first, second):
        bench.scheduler.cancel(sequence.id)
    bench.next_batch()
    assert first.encoding.place == -1
    assert bench.shelves.claims == [waiting.encoding.ref]
    bench.scheduler.cancel(waiting.id)
    bench.next_batch()
    bench.scheduler.check_idle()


def test_the_encode_budget_counts_a_prompt_once() -> None:
    bench = Bench(max_encode_tokens=10)
    first = bench.add("a", prompt=6)
    bench.add_another(first)
    third = bench.add("a", prompt=4)
    assert bench.step().encode == (first.encoding, third.encoding)


def test_a_prompt_whose_step_failed_is_encoded_again_for_what_waits() -> None:
    bench = Bench()
    first = bench.add("a")
    for _ in range(2):
        bench.add("b")
    late = bench.add_another(first)
    batch = bench.next_batch()
    assert first.encoding in batch.encode
    assert late.row == -1, "no row is free"
    bench.scheduler.fail(batch, GenerationFailed("the step raised"), 1.0)
    bench.note()
    assert bench.reason(first) is FinishReason.ERROR
    assert first.encoding.place == -1, "what its place holds was never written"
    assert bench.shelves.claims == []
    assert bench.step().encode == (late.encoding,)
    while late.id not in bench.finished:
        bench.step()
    bench.scheduler.check_idle()


def test_a_prompt_that_was_encoded_before_a_failed_step_is_kept_for_what_waits() -> None:
    bench = Bench()
    first = bench.add("a")
    for _ in range(2):
        bench.add("b")
    late = bench.add_another(first)
    bench.step()
    bench.scheduler.fail(bench.next_batch(), GenerationFailed("the step raised"), 2.0)
    bench.note()
    assert bench.step().encode == ()
    assert late.id not in bench.finished


def test_low_sequences_that_hold_all_places_go_before_one_that_waits_for_a_place() -> None:
    bench = Bench(EngineLimits(2, 64, 32, (EOS,)))
    firsts = [bench.add("a", priority="low", max_new_tokens=1) for _ in range(2)]
    bench.add("b", priority="low", max_new_tokens=1)
    for first in firsts:
        bench.add_another(first, max_new_tokens=1)
    bench.add("c", max_new_tokens=1)
    for _ in range(8):
        bench.step()
    assert sorted(bench.finished) == [sequence.id for sequence in bench.sequences]
    bench.scheduler.check_idle()


def test_a_beam_search_waits_until_all_of_its_rows_are_free() -> None:
    bench = Bench()
    small = bench.add("a")
    wide = bench.add("b", beams=Beams(3))
    after = bench.add("c")
    bench.step()
    assert (small.row, after.row) == (0, -1), "rows are kept for the one that is next"
    bench.step(lambda s: EOS)
    assert ids(bench.next_batch().decode) == [wide.id], "one hypothesis runs in the first step"
    assert bench.scheduler.running == 3


def test_a_quiet_task_does_not_wait_for_a_beam_search() -> None:
    bench = Bench(EngineLimits(5, 64, 32, (EOS,)), spare_rows=1)
    first, second = (bench.add("a", max_new_tokens=3) for _ in range(2))
    bench.step()
    wide = bench.add("b", beams=Beams(4))
    bench.add("a")
    quiet, late = bench.add("c", max_new_tokens=9), bench.add("d")
    assert ids(bench.step().decode) == ids([first, second, quiet]), "one row is kept back"
    assert late.row == -1
    bench.step()
    assert {*ids(bench.step().decode)} == {quiet.id, wide.id}


@pytest.mark.parametrize("wants", ["tokens", "end"])
def test_answers_of_beams_come_in_pieces_where_tokens_are_wanted(wants: Wanted) -> None:
    """Else each is detokenized once: all other rows wait for it."""
    bench = Bench()
    search = bench.add("a", beams=Beams(2, answers=2), wants=wants, max_new_tokens=3)
    for _ in range(3):
        bench.step()
    for answer in bench.finished[search.id].answers:
        pieces = [token.text for token in answer.tokens]
        assert "".join(pieces) == answer.text
        assert len(answer.text) == 3
        assert pieces == ([*answer.text] if wants == "tokens" else ["", "", answer.text])


def test_a_quiet_tasks_beam_search_takes_free_rows_only() -> None:
    """Of those that are kept back, some may have been taken before another search waited."""
    bench = Bench(EngineLimits(4, 64, 32, (EOS,)), spare_rows=2)
    for task in ("a", "a", "b"):
        bench.add(task, max_new_tokens=9)
        bench.step()
    waiting = [bench.add(task, beams=Beams(2)) for task in ("c", "d")]
    assert len(bench.step().decode) == 3
    for _ in range(20):
        bench.step()
    assert {s.id for s in waiting} <= bench.finished.keys()


def test_a_search_for_an_encoded_prompt_waits_for_its_rows_too() -> None:
    bench = Bench()
    first = bench.add("a", max_new_tokens=3)
    bench.step()
    second = replace(first, id=1, sampling=Sampling(3, beams=Beams(3)), output=[], row=-1)
    bench.scheduler.add(second)
    assert len(bench.step().decode) == 1
    bench.step()
    assert len(bench.next_batch().decode) == 1
    assert bench.scheduler.running == 3


def test_a_cancelled_beam_search_holds_nothing_up() -> None:
    bench = Bench()
    bench.add("a")
    wide = bench.add("b", beams=Beams(3))
    after = bench.add("c")
    bench.step()
    bench.scheduler.cancel(wide.id)
    assert after.id in ids(bench.next_batch().decode)
    assert bench.reason(wide) is FinishReason.CANCELLED


def test_a_beam_search_whose_version_is_cold_holds_nothing_up() -> None:
    bench = Bench()
    bench.add("a")
    bench.shelves.cold.add("b")
    wide = bench.add("b", beams=Beams(3))
    after = bench.add("c")
    assert after.id in ids(bench.step().decode)
    bench.shelves.cold.clear()
    bench.step()
    bench.step(lambda s: EOS)
    assert wide.id in ids(bench.next_batch().decode)


def test_a_task_has_its_share_of_rows_whatever_they_hold() -> None:
    """A beam search holds as many rows as it is wide: the task gets fewer turns."""
    bench = Bench(EngineLimits(8, 64, 32, (EOS,)))
    for _ in range(9):
        bench.add("a", beams=Beams(2), max_new_tokens=4)
        bench.add("b", max_new_tokens=4)
    while len(bench.finished) < 12:
        bench.step()
    tasks = [bench.sequences[i].encoding.ref for i in bench.finished]
    ended = [ref.task for ref in tasks if ref is not None]
    assert ended.count("b") == 2 * ended.count("a")


def test_a_task_is_charged_for_every_hypothesis() -> None:
    bench = Bench(EngineLimits(6, 64, 32, (EOS,)))
    bench.add("a", beams=Beams(3), max_new_tokens=5)
    bench.add("b", max_new_tokens=5)
    for _ in range(4):
        bench.step()
    served = bench.scheduler._line._queue.served
    prompt = 2.2  # two tokens, of a version of its own
    idle = 2 * OUTPUT_TOKEN  # one runs in the first step, then three
    ratio = (served("a") - prompt - idle) / (served("b") - prompt)
    assert ratio == pytest.approx(10 / 4, rel=0.01)


def test_a_place_that_no_answer_uses_is_lent_to_another_prompt() -> None:
    """With more prompts begun than there are places, one is encoded again and nothing waits."""
    bench = Bench(EngineLimits(2, 64, 32, (EOS,)))
    first = bench.add("a", max_new_tokens=1)
    others = [bench.add_another(first) for _ in range(3)]
    bench.add("b", max_new_tokens=9)
    for _ in range(40):
        bench.step()
    assert bench.finished.keys() == {s.id for s in bench.sequences}
    assert all(bench.reason(s) is FinishReason.LENGTH for s in others)
    bench.scheduler.next_batch(bench.now)
    bench.scheduler.check_idle()
