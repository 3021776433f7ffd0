"""What waits for rows, of both priorities, and who is next.

A sequence takes one row, a beam search as many as it is wide and all at once. While one waits for
its rows, those that get free are kept for it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable

from jumplora_server.core import Sequence
from jumplora_server.scheduler.queue import FairQueue, RowShares, Verdict, task_of

Judge = Callable[[Sequence], Verdict]


def rows_of(sequence: Sequence) -> int:
    """How many rows it needs at the same time."""
    beams = sequence.sampling.beams
    return 1 if beams is None else beams.width


class WaitingLine:
    """Normal sequences in fair order, and those of low priority. Plain data, one thread.

    Low-priority sequences take rows that no other wants and that are not kept back. One that waited
    goes first, else a saturated server could never load a version; but one in
    `low_patience_seconds`, for a version may have dozens of canaries, and of the rows that are kept
    back one at most.
    """

    def __init__(self, rows: int, spare: int, low_patience_seconds: float) -> None:
        """`spare` of the `rows` are kept back for tasks that hold none."""
        self._all_rows = rows
        self._spare = spare
        self._low_patience_seconds = low_patience_seconds
        self._queue = FairQueue()
        self._shares = RowShares(rows, spare)
        self._low: deque[Sequence] = deque()
        self._low_rows = 0
        self._low_served = -math.inf  # when one of them got a row last
        self._large: Sequence | None = None  # whose turn it is, when its rows are free
        self._passed: dict[int, int] = {}  # rows of those that got some while it waits, by id

    def __len__(self) -> int:
        """How many normal ones wait."""
        return len(self._queue)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._queue and not self._low

    @property
    def present(self) -> int:
        """How many tasks hold rows."""
        return self._shares.tasks

    def tasks(self) -> Iterable[str | None]:
        """Tasks that have something waiting."""
        return self._queue.tasks()

    def push(self, sequence: Sequence) -> None:
        """It waits from now on."""
        if sequence.priority == "low":
            self._low.append(sequence)
        else:
            self._queue.push(sequence)

    def discard(self, sequence: Sequence) -> None:
        """It waits no longer."""
        if sequence is self._large:
            self._forget_large()
        if sequence.priority == "normal":
            self._queue.discard(sequence)
        elif sequence in self._low:
            self._low.remove(sequence)

    def leave(self, sequence: Sequence) -> None:
        """The sequence ended, wherever it was."""
        if sequence.priority == "normal":
            self._queue.leave(sequence)

    def charge(self, sequence: Sequence, cost: float) -> None:
        """Add to what its task was served; what has low priority costs no task anything."""
        if sequence.priority == "normal":
            self._queue.charge(task_of(sequence), cost)

    def take_rows(self, sequence: Sequence, now: float) -> None:
        """It was given its rows."""
        if self._large is not None:
            self._passed[sequence.id] = rows_of(sequence)
        if sequence.priority == "low":
            self._low_rows += rows_of(sequence)
            self._low_served = now
        else:
            self._shares.take(task_of(sequence), rows_of(sequence))

    def give_back_rows(self, sequence: Sequence) -> None:
        """It left its rows."""
        self._passed.pop(sequence.id, None)
        if sequence.priority == "low":
            self._low_rows -= rows_of(sequence)
        else:
            self._shares.give_back(task_of(sequence), rows_of(sequence))

    def has_rows(self, sequence: Sequence, taken: int) -> bool:
        """Whether all rows that it needs are free for it while `taken` are in use."""
        rows = rows_of(sequence)
        if rows == 1:
            return True  # it is looked at where there is a row only
        if sequence is self._large:
            return self._shares.has_ordinary(taken - sum(self._passed.values()), rows)
        if self._large is not None:
            return rows <= self._spare - sum(self._passed.values())
        return self._shares.may_take(task_of(sequence), taken, rows)

    def pick(self, judge: Judge, taken: int, now: float) -> Sequence | None:
        """Remove and return the next that may have rows while `taken` are in use, one at least is
        free, and `judge` lets it; "wait" is for a beam search whose rows are not free."""
        if self._large is not None:
            return self._pick_beside(self._large, judge, taken, now)
        if not self._low:
            return self._pick_normal(judge, taken)
        low = self._low[0]
        is_due = now - max(low.arrived, self._low_served) >= self._low_patience_seconds
        may_take = self._shares.has_ordinary(taken) or (is_due and not self._low_rows)
        if not (is_due and may_take):
            sequence = self._pick_normal(judge, taken)
            if sequence is not None or not may_take or self._large is not None:
                return sequence
        verdict = judge(low)
        if verdict in ("take", "drop"):
            self._low.remove(low)
        return low if verdict == "take" else self._pick_normal(judge, taken)

    def _pick_normal(self, judge: Judge, taken: int) -> Sequence | None:
        def watched(sequence: Sequence) -> Verdict:
            verdict = judge(sequence)
            if verdict == "wait":
                self._large = sequence
            return verdict

        sequence = self._queue.pick(watched, self._shares, taken)
        if sequence is None and self._large is not None:
            return self._pick_quiet(self._large, judge)
        return sequence

    def _pick_beside(
        self, large: Sequence, judge: Judge, taken: int, now: float
    ) -> Sequence | None:
        verdict = judge(large)
        if verdict == "wait":
            return self._pick_quiet(large, judge)
        if verdict == "stop":
            return None
        self._forget_large()
        if verdict != "pass":
            self._queue.discard(large)
        return large if verdict == "take" else self.pick(judge, taken, now)

    def _pick_quiet(self, large: Sequence, judge: Judge) -> Sequence | None:
        """One of a task that holds no row, as far as rows are kept back for those: they wait for no
        other task's rows. It may hold the large one up by as many rows, never by more."""
        if sum(self._passed.values()) >= self._spare:
            return None

        def other(sequence: Sequence) -> Verdict:
            verdict = "pass" if task_of(sequence) == task_of(large) else judge(sequence)
            return "pass" if verdict == "wait" else verdict

        return self._queue.pick(other, self._shares, self._all_rows - 1)

    def _forget_large(self) -> None:
        self._large = None
        self._passed.clear()
