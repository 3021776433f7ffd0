"""Decides what the next step computes and what its result means. Plain Python, one thread.

Owns the rows and source places of the caches, the waiting line and every sequence until its
terminal event. Must not know tensors, threads or clients; times come in as `now`, monotonic
seconds.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Sequence as Rows

from jumplora_server.core import (
    AdapterRef,
    Answer,
    Batch,
    Candidate,
    Encoding,
    EngineLimits,
    FinishReason,
    Pass,
    Sequence,
    StepOutput,
    Token,
    TokenEvent,
)
from jumplora_server.errors import AdapterUnavailable, GenerationFailed
from jumplora_server.scheduler.claims import Priority, SlotClaims
from jumplora_server.scheduler.group import BeamGroup
from jumplora_server.scheduler.queue import (
    Verdict,
    WaitingLine,
    idle_cost,
    prompt_cost,
    token_cost,
)
from jumplora_server.scheduler.text import OutputText, finish_of
from jumplora_server.scheduler.walk import Walks

_log = logging.getLogger(__name__)


class Scheduler:
    """Sequences enter by `add` and leave by exactly one event with `finish` in `take_events`."""

    def __init__(
        self,
        limits: EngineLimits,
        claims: SlotClaims,
        *,
        max_encode_tokens: int,
        spare_rows: int = 0,
        low_patience_seconds: float = 0.1,
    ) -> None:
        """`max_encode_tokens` bounds the prompts of one step (one prompt always fits); where rows
        of several tasks wait for the step, a quarter of it does. `spare_rows` of the limits' rows
        are kept back for tasks that hold none; WaitingLine says when low priority gets one.
        """
        self._limits = limits
        self._claims = claims
        self._max_encode_tokens = max_encode_tokens
        self._line = WaitingLine(limits.max_rows, spare_rows, low_patience_seconds)
        self._free_rows = list(range(limits.max_rows))  # a heap
        self._free_places = list(range(limits.max_rows))  # a heap
        self._rows: dict[int, Sequence] = {}  # a beam search has several
        self._groups: dict[int, BeamGroup] = {}  # of those that run, by sequence id
        self._walks = Walks(limits.max_nodes)
        self._known: dict[int, Sequence] = {}  # by sequence id, until the terminal event
        self._texts: dict[int, OutputText] = {}
        self._cancelled: list[int] = []
        self._deadlines: list[tuple[float, int]] = []  # a heap; ended ones stay until they surface
        self._events: list[tuple[Sequence, TokenEvent]] = []

    @property
    def waiting(self) -> int:
        """Normal sequences without a row."""
        return len(self._line)

    @property
    def running(self) -> int:
        """Rows in use."""
        return len(self._rows)

    def waiting_tasks(self) -> frozenset[str]:
        """Tasks with something waiting."""
        return frozenset(task for task in self._line.tasks() if task is not None)

    def running_tasks(self) -> frozenset[str]:
        """Tasks with a row, warm-ups left out."""
        normal = (s.encoding.ref for s in self._rows.values() if s.priority == "normal")
        return frozenset(ref.task for ref in normal if ref is not None)

    def next_wake(self) -> float | None:
        """When the next deadline passes; None without one."""
        while self._deadlines and self._deadlines[0][1] not in self._known:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self._known[sequence.id] = sequence
        sequence.encoding.sequences += 1
        if sequence.deadline is not None:
            heapq.heappush(self._deadlines, (sequence.deadline, sequence.id))
        self._line.push(sequence)

    def cancel(self, sequence_id: int) -> None:
        """End it before the next step; ids that are not known are ignored."""
        self._cancelled.append(sequence_id)

    def next_batch(self, now: float) -> Batch:
        """End what was cancelled or is late, give free rows to who is next, decode every row."""
        for sequence_id in self._cancelled:
            if sequence_id in self._known:
                self._known[sequence_id].cancelled = True
                self._end(self._known[sequence_id], FinishReason.CANCELLED, now)
        self._cancelled.clear()
        while (due := self.next_wake()) is not None and due <= now:
            late = self._known[heapq.heappop(self._deadlines)[1]]
            self._end(late, FinishReason.TIMEOUT, now)
        admitted = self._admit(now)
        self._line.charge_kept(len(self._rows))
        rows = [self._rows[row] for row in sorted(self._rows)]
        if not self._groups and not self._walks:
            return Batch(tuple(admitted), tuple(rows))
        groups = self._groups.values()
        others = self._groups.keys() | self._walks.keys()
        rows = [sequence for sequence in rows if sequence.id not in others]
        rows += [member for group in groups for member in group.members]
        copies = [copy for group in groups for copy in group.take_copies()]
        rows.sort(key=lambda sequence: sequence.row)
        return Batch(tuple(admitted), tuple(rows), tuple(copies), self._passes())

    def apply(self, batch: Batch, output: StepOutput, now: float) -> None:
        """Account for a step: one token for each sequence of `batch.decode`."""
        for member in batch.sequences:
            sequence = self._known[member.id]
            if sequence.encoded is None:
                assert sequence.started is not None
                is_new = sequence.encoding in batch.encode
                seconds = output.encode_seconds if is_new else 0.0
                sequence.encoded = min(now, sequence.started + seconds)
        candidates: dict[int, tuple[Candidate, ...]] = {}  # by row
        failed = frozenset(output.failed)
        chosen = zip(batch.decode, output.token_ids, output.logprobs, strict=True)
        for index, (sequence, token_id, logprob) in enumerate(chosen):
            if sequence.id in self._groups:
                candidates[sequence.row] = () if index in failed else output.candidates[index]
            elif index in failed:
                self._end(sequence, FinishReason.ERROR, now, error=_not_finite())
            else:
                self._accept(sequence, token_id, logprob, now)
        if candidates:
            for group in tuple(self._groups.values()):
                self._advance(group, [candidates[member.row] for member in group.members], now)
        for each, logprobs in zip(batch.passes, output.passes, strict=True):
            self._walk_on(each, logprobs, now)

    def fail(self, batch: Batch, error: Exception, now: float) -> None:
        """End what is still running of a batch whose step raised.

        What it was to encode may not be in its place: a sequence that waits encodes it again.
        """
        # One with choices may not have had a pass in this step yet.
        others = [s for s in self._rows.values() if s.encoding in batch.encode]
        for sequence in (*batch.sequences, *others):
            if (known := self._known.get(sequence.id)) is not None:
                self._end(known, FinishReason.ERROR, now, error=error)
        for encoding in batch.encode:
            self._leave_place(encoding)

    def abort(self, error: Exception, now: float) -> None:
        """End everything, waiting and running."""
        for sequence in tuple(self._known.values()):
            self._end(sequence, FinishReason.ERROR, now, error=error)

    def take_events(self) -> list[tuple[Sequence, TokenEvent]]:
        """The events since the last call, in order."""
        events, self._events = self._events, []
        return events

    def check_idle(self) -> None:
        """With nothing known, every row must be free and nothing may wait."""
        assert self._known or (
            sorted(self._free_rows) == list(range(self._limits.max_rows))
            and sorted(self._free_places) == list(range(self._limits.max_rows))
            and not (self._rows or self._texts or self._groups or self._walks)
            and self._line.is_empty
        ), (
            f"leaked: rows {sorted(self._rows)}, {len(self._line)} waiting, free places "
            f"{sorted(self._free_places)}"
        )

    def _admit(self, now: float) -> list[Encoding]:
        """Give free rows, lowest first, to whose turn it is, within the token budget.

        Returns the new prompts: the rest continue from one that was encoded.
        """
        admitted: list[Encoding] = []
        cold: set[tuple[AdapterRef, Priority]] = set()
        failed: list[tuple[Sequence, AdapterUnavailable]] = []
        tokens = 0

        def judge(sequence: Sequence) -> Verdict:
            encoding = sequence.encoding
            has_rows = self._line.has_rows(sequence, len(self._rows))
            if encoding.place >= 0:
                return "take" if has_rows else "wait"
            if admitted and tokens + len(encoding.prompt) > self._encode_budget():
                return "stop"  # not passed over: long prompts would starve
            if encoding.ref is None:
                return "take" if has_rows else "wait"
            if (encoding.ref, sequence.priority) in cold:
                return "pass"
            try:
                slots = self._claims.claim(encoding.ref, sequence.priority)
            except AdapterUnavailable as error:
                failed.append((sequence, error))
                return "drop"
            if slots is None:
                cold.add((encoding.ref, sequence.priority))
                return "pass"
            if not has_rows:
                self._claims.unclaim(encoding.ref)  # nothing is loaded for it while it waits
                return "wait"
            encoding.slots = slots
            return "take"

        while self._free_rows:
            sequence = self._line.pick(judge, len(self._rows), now)
            if sequence is None:
                break
            encoding = sequence.encoding
            self._give_rows(sequence, now)
            if encoding.place < 0:
                encoding.place = self._free_place()
                self._line.charge(sequence, prompt_cost(encoding))
                tokens += len(encoding.prompt)
                admitted.append(encoding)
        for sequence, error in failed:
            self._end(sequence, FinishReason.ERROR, now, error=error)
        return admitted

    def _give_rows(self, sequence: Sequence, now: float) -> None:
        rows = tuple(heapq.heappop(self._free_rows) for _ in range(sequence.sampling.rows))
        self._line.take_rows(sequence, now)
        self._rows.update(dict.fromkeys(rows, sequence))
        sequence.started = now
        if sequence.sampling.beams is not None:
            self._groups[sequence.id] = BeamGroup(sequence, rows, self._limits)
            return
        (sequence.row,) = rows
        if sequence.sampling.choices is not None:  # its row stays unused
            self._walks.begin(sequence)
            return
        self._texts[sequence.id] = OutputText(
            sequence.detokenizer, sequence.sampling.stop, in_pieces=sequence.wants == "tokens"
        )

    def _free_place(self) -> int:
        """A source place. Where a row is free but no place is, a prompt holds one of whose
        sequences none runs: the next of them encodes it again."""
        if not self._free_places:
            running = {sequence.encoding.place for sequence in self._rows.values()}
            known = (sequence.encoding for sequence in self._known.values())
            self._leave_place(next(e for e in known if e.place >= 0 and e.place not in running))
        return heapq.heappop(self._free_places)

    def _encode_budget(self) -> int:
        # A row's next token comes with the step, so one task's prompts are another's wait.
        whole = self._max_encode_tokens
        return whole if self._line.present <= 1 else whole // 4

    def _accept(self, sequence: Sequence, token_id: int, logprob: float | None, now: float) -> None:
        """Add one token; end the sequence where it is the last."""
        output = self._texts[sequence.id]
        if sequence.first_token is None:
            sequence.first_token = now
        sequence.output.append(token_id)
        sequence.logprob += logprob or 0.0
        self._line.charge(sequence, token_cost(sequence))
        limit = min(sequence.sampling.max_new_tokens, self._limits.max_target_tokens)
        is_end = token_id in self._limits.end_token_ids
        try:
            text, reason = output.take(
                token_id, is_end=is_end, is_last=len(sequence.output) >= limit
            )
        except Exception as error:  # ids that the tokenizer cannot decode are this sequence's fault
            _log.exception("the tokens of a sequence could not be made a text")
            self._end(sequence, FinishReason.ERROR, now, error=error)
            return
        sequence.text += text
        token = None
        if sequence.wants == "tokens":
            is_special = is_end or sequence.detokenizer.is_special(token_id)
            token = Token(token_id, text, logprob, is_special)
        if reason is not None:
            self._end(sequence, reason, now, token=token)
        elif token is not None:
            self._events.append((sequence, TokenEvent(sequence.id, token, None)))

    def _advance(
        self, group: BeamGroup, candidates: list[tuple[Candidate, ...]], now: float
    ) -> None:
        """Continue a beam search, or end it."""
        sequence = group.sequence
        if sequence.first_token is None:
            sequence.first_token = now
        for member in group.members:
            self._line.charge(sequence, token_cost(member))
        self._line.charge(sequence, idle_cost(len(group.rows) - len(group.members)))
        if not all(candidates):
            self._end(sequence, FinishReason.ERROR, now, error=_not_finite())
            return
        if group.advance(candidates):
            return
        try:
            answers = group.answers()
        except Exception as error:  # as in _accept
            _log.exception("the tokens of a beam search could not be made texts")
            self._end(sequence, FinishReason.ERROR, now, error=error)
            return
        self._end(sequence, answers[0].reason, now, answers=answers)

    def _passes(self) -> tuple[Pass, ...]:
        passes = self._walks.next_passes()
        for sequence in self._walks.waiting(passes):  # for its row
            self._line.charge(sequence, idle_cost(1))
        return passes

    def _walk_on(self, done: Pass, logprobs: Rows[Rows[float]], now: float) -> None:
        """Take what a pass found; end the sequence where nothing is left that counts."""
        sequence, walk = self._walks[done.sequence.id]
        if sequence.first_token is None:
            sequence.first_token = now
        self._line.charge(sequence, len(done.nodes) * token_cost(sequence))
        if not logprobs:
            self._end(sequence, FinishReason.ERROR, now, error=_not_finite())
            return
        walk.take(logprobs)
        if walk.nodes:
            return
        best, sequence.logprob = walk.best()
        sequence.output = list(walk.trie.ids[best])
        self._end(sequence, FinishReason.EOS_TOKEN, now, options=tuple(walk.found))

    def _end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        now: float,
        *,
        token: Token | None = None,
        error: Exception | None = None,
        answers: tuple[Answer, ...] = (),
        options: tuple[float | None, ...] = (),
    ) -> None:
        """The one way out: free what the sequence holds and make its terminal event."""
        del self._known[sequence.id]
        self._texts.pop(sequence.id, None)
        self._walks.pop(sequence.id, None)
        group = self._groups.pop(sequence.id, None)
        rows = (sequence.row,) if group is None else group.rows
        if self._rows.get(rows[0]) is sequence:
            for row in rows:
                del self._rows[row]
                heapq.heappush(self._free_rows, row)
            self._line.give_back_rows(sequence)
        else:
            self._line.discard(sequence)
        self._line.leave(sequence)
        self._leave_encoding(sequence.encoding)
        finish = finish_of(sequence, reason, now, error, answers, options)
        self._events.append((sequence, TokenEvent(sequence.id, token, finish)))
        sequence.row = -1

    def _leave_encoding(self, encoding: Encoding) -> None:
        """One of its sequences ended; the last one frees the place and the version."""
        encoding.sequences -= 1
        if not encoding.sequences:
            self._leave_place(encoding)

    def _leave_place(self, encoding: Encoding) -> None:
        """Free the place and the version that it holds, if it does; none of its sequences run."""
        if encoding.place < 0:
            return
        heapq.heappush(self._free_places, encoding.place)
        encoding.place = -1
        if encoding.ref is not None:
            self._claims.unclaim(encoding.ref)


def _not_finite() -> GenerationFailed:
    return GenerationFailed("the model's output was not finite", reason="nonfinite")
