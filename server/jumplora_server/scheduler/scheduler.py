"""Decides what the next step computes and what its result means. Plain Python, one thread.

Owns the rows and source places of the caches, the waiting line and every sequence until its
terminal event. Must not know tensors, threads or clients; times come in as `now`, monotonic
seconds.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections import deque
from collections.abc import Callable

from jumplora_server.core import (
    AdapterRef,
    Batch,
    Encoding,
    EngineLimits,
    FinishReason,
    Sequence,
    StepOutput,
    Token,
    TokenEvent,
)
from jumplora_server.errors import AdapterUnavailable, GenerationFailed
from jumplora_server.scheduler.claims import Priority, SlotClaims
from jumplora_server.scheduler.queue import (
    FairQueue,
    RowShares,
    Verdict,
    prompt_cost,
    task_of,
    token_cost,
)
from jumplora_server.scheduler.text import OutputText, finish_of

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
        are kept back for tasks that hold none.

        Low-priority sequences take rows that no other wants and that are not kept back. One that
        waited goes first, else a saturated server could never load a version; but one in
        `low_patience_seconds`, for a version may have dozens of canaries, and of the rows that are
        kept back one at most.
        """
        self._limits = limits
        self._claims = claims
        self._max_encode_tokens = max_encode_tokens
        self._low_patience_seconds = low_patience_seconds
        self._queue = FairQueue()
        self._shares = RowShares(limits.max_rows, spare_rows)
        self._low: deque[Sequence] = deque()
        self._low_rows = 0
        self._low_served = -math.inf  # when one of them got a row last
        self._free_rows = list(range(limits.max_rows))  # a heap
        self._free_places = list(range(limits.max_rows))  # a heap
        self._rows: dict[int, Sequence] = {}
        self._known: dict[int, Sequence] = {}  # by sequence id, until the terminal event
        self._texts: dict[int, OutputText] = {}
        self._cancelled: list[int] = []
        self._deadlines: list[tuple[float, int]] = []  # a heap; ended ones stay until they surface
        self._events: list[tuple[Sequence, TokenEvent]] = []

    @property
    def waiting(self) -> int:
        """Normal sequences without a row."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Rows in use."""
        return len(self._rows)

    def waiting_tasks(self) -> frozenset[str]:
        """Tasks with something waiting."""
        return frozenset(task for task in self._queue.tasks() if task is not None)

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
        if sequence.priority == "low":
            self._low.append(sequence)
        else:
            self._queue.push(sequence)

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
        return Batch(tuple(admitted), tuple(self._rows[row] for row in sorted(self._rows)))

    def apply(self, batch: Batch, output: StepOutput, now: float) -> None:
        """Account for a step: one token for each sequence of `batch.decode`."""
        for sequence in batch.decode:
            if sequence.encoded is None:
                assert sequence.started is not None
                is_new = sequence.encoding in batch.encode
                seconds = output.encode_seconds if is_new else 0.0
                sequence.encoded = min(now, sequence.started + seconds)
        failed = frozenset(output.failed)
        chosen = zip(batch.decode, output.token_ids, output.logprobs, strict=True)
        for index, (sequence, token_id, logprob) in enumerate(chosen):
            if index in failed:
                error = GenerationFailed("the model's output was not finite", reason="nonfinite")
                self._end(sequence, FinishReason.ERROR, now, error=error)
            else:
                self._accept(sequence, token_id, logprob, now)

    def fail(self, batch: Batch, error: Exception, now: float) -> None:
        """End what is still running of a batch whose step raised.

        What it was to encode may not be in its place: a sequence that waits encodes it again.
        """
        for sequence in batch.decode:
            if sequence.id in self._known:
                self._end(sequence, FinishReason.ERROR, now, error=error)
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
            and not (self._rows or self._texts or self._low or len(self._queue))
        ), (
            f"leaked: rows {sorted(self._rows)}, {len(self._queue)} waiting, free places "
            f"{sorted(self._free_places)}"
        )

    def _admit(self, now: float) -> list[Encoding]:
        """Give free rows, lowest first, to whose turn it is, within the token budget.

        Returns the new prompts: the rest continue from one that was encoded.
        """
        admitted: list[Encoding] = []
        cold: set[tuple[AdapterRef, Priority]] = set()
        tokens = 0

        def judge(sequence: Sequence) -> Verdict:
            encoding = sequence.encoding
            if encoding.place >= 0:
                return "take"
            if not self._free_places:
                return "pass"
            if admitted and tokens + len(encoding.prompt) > self._encode_budget():
                return "stop"  # not passed over: long prompts would starve
            if encoding.ref is None:
                return "take"
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
            encoding.slots = slots
            return "take"

        failed: list[tuple[Sequence, AdapterUnavailable]] = []
        while self._free_rows:
            sequence = self._pick(judge, now)
            if sequence is None:
                break
            sequence.row = heapq.heappop(self._free_rows)
            sequence.started = now
            self._rows[sequence.row] = sequence
            encoding = sequence.encoding
            if sequence.priority == "normal":
                self._shares.take(task_of(sequence))
            else:
                self._low_rows += 1
            if encoding.place < 0:
                encoding.place = heapq.heappop(self._free_places)
                if sequence.priority == "normal":
                    self._queue.charge(task_of(sequence), prompt_cost(encoding))
                tokens += len(encoding.prompt)
                admitted.append(encoding)
            self._texts[sequence.id] = OutputText(
                sequence.detokenizer,
                sequence.sampling.stop,
                in_pieces=sequence.wants == "tokens",
            )
        for sequence, error in failed:
            self._end(sequence, FinishReason.ERROR, now, error=error)
        return admitted

    def _encode_budget(self) -> int:
        # A row's next token comes with the step, so one task's prompts are another's wait.
        whole = self._max_encode_tokens
        return whole if self._shares.tasks <= 1 else whole // 4

    def _pick(self, judge: Callable[[Sequence], Verdict], now: float) -> Sequence | None:
        taken = len(self._rows)
        low = self._next_low()
        if low is None:
            return self._queue.pick(judge, self._shares, taken)
        is_due = now - max(low.arrived, self._low_served) >= self._low_patience_seconds
        may_take = self._shares.has_ordinary(taken) or (is_due and not self._low_rows)
        if not (is_due and may_take):
            sequence = self._queue.pick(judge, self._shares, taken)
            if sequence is not None or not may_take:
                return sequence
        verdict = judge(low)
        if verdict in ("take", "drop"):
            self._low.remove(low)
        if verdict == "take":
            self._low_served = now
            return low
        return self._queue.pick(judge, self._shares, taken)

    def _next_low(self) -> Sequence | None:
        """The first, unless it waits for a source place: those behind it may hold them all."""
        if not self._free_places:
            held = (low for low in self._low if low.encoding.place >= 0)
            return next(held, None)
        return self._low[0] if self._low else None

    def _accept(self, sequence: Sequence, token_id: int, logprob: float | None, now: float) -> None:
        """Add one token; end the sequence where it is the last."""
        output = self._texts[sequence.id]
        if sequence.first_token is None:
            sequence.first_token = now
        sequence.output.append(token_id)
        if sequence.priority == "normal":
            self._queue.charge(task_of(sequence), token_cost(sequence))
        limit = min(sequence.sampling.max_new_tokens, self._limits.max_target_tokens)
        reason: FinishReason | None = None
        text = ""
        is_end = token_id in self._limits.end_token_ids
        try:
            if is_end:  # it has no text, also where it is not a control token
                reason = FinishReason.EOS_TOKEN
            else:
                text = output.push(token_id)
                if len(sequence.output) >= limit:
                    reason = FinishReason.LENGTH
            if reason is not None and not output.is_stopped:
                text += output.flush()
        except Exception as error:  # ids that the tokenizer cannot decode are this sequence's fault
            _log.exception("the tokens of a sequence could not be made a text")
            self._end(sequence, FinishReason.ERROR, now, error=error)
            return
        if output.is_stopped:
            reason = FinishReason.STOP_SEQUENCE
        sequence.text += text
        token = None
        if sequence.wants == "tokens":
            is_special = is_end or sequence.detokenizer.is_special(token_id)
            token = Token(token_id, text, logprob, is_special)
        if reason is not None:
            self._end(sequence, reason, now, token=token)
        elif token is not None:
            self._events.append((sequence, TokenEvent(sequence.id, token, None)))

    def _end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        now: float,
        *,
        token: Token | None = None,
        error: Exception | None = None,
    ) -> None:
        """The one way out: free what the sequence holds and make its terminal event."""
        del self._known[sequence.id]
        self._texts.pop(sequence.id, None)
        if sequence.row >= 0:
            del self._rows[sequence.row]
            heapq.heappush(self._free_rows, sequence.row)
            if sequence.priority == "normal":
                self._shares.give_back(task_of(sequence))
            else:
                self._low_rows -= 1
        elif sequence.priority == "low":
            if sequence in self._low:
                self._low.remove(sequence)
        else:
            self._queue.discard(sequence)
        if sequence.priority == "normal":
            self._queue.leave(sequence)
        self._leave_encoding(sequence.encoding)
        finish = finish_of(sequence, reason, now, error)
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
