"""What waits for rows, and whose turn it is: fair between tasks, in order of arrival within one.

A sequence takes one row, a beam search as many as it is wide and all at once. While one waits for
its rows, those that get free are kept for it, and its task is charged for them.

A virtual token counter per task (VTC, Sheng et al., arXiv 2401.00588): the backlogged task that was
served least goes first, and a task that comes back is lifted to the others, so that idle time
cannot be saved up.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Literal

from jumplora_server.core import Encoding, Sequence
from jumplora_server.scheduler.shares import RowShares

# take: remove and return it; drop: remove it, it is accounted for; pass: leave it and look on;
# stop: leave it, nothing after it may go before it; wait: the same, until all of its rows are free.
Verdict = Literal["take", "drop", "pass", "stop", "wait"]
Judge = Callable[[Sequence], Verdict]

# What a task is charged, in units of one encoded prompt token. Rounded from measurements of T5-base
# on a CPU (server/DECISIONS.md, 2026-11-27). No kind of work may be much cheaper for its task than
# for the server.
OUTPUT_TOKEN = 3.0  # a row's part of a decode step, with short prompts
KEY = 0.005  # each position that attention reads again for every output token
ANCESTOR = 0.1  # share of the work that each version of a lineage adds


class FairQueue:
    """Waiting sequences by task (None: the bare backbone). Plain data, one thread."""

    def __init__(self) -> None:
        self._waiting: dict[str | None, deque[Sequence]] = {}
        self._served: dict[str | None, float] = {}
        self._active: Counter[str | None] = Counter()  # waiting or running, by task

    def __len__(self) -> int:
        return sum(len(line) for line in self._waiting.values())

    def tasks(self) -> Iterable[str | None]:
        """Tasks that have something waiting."""
        return self._waiting.keys()

    def served(self, task: str | None) -> float:
        """What the task was charged so far."""
        return self._served.get(task, 0.0)

    def push(self, sequence: Sequence) -> None:
        """Add to the end of its task's line. `leave` must follow when it has ended."""
        task = task_of(sequence)
        if task not in self._waiting:
            self._served[task] = max(self.served(task), self._floor(task))
            self._waiting[task] = deque()
        self._waiting[task].append(sequence)
        self._active[task] += 1

    def discard(self, sequence: Sequence) -> None:
        """Take a sequence out of its line out of turn, if it is in it (cancelled, expired)."""
        task = task_of(sequence)
        line = self._waiting.get(task, deque())
        if sequence in line:
            line.remove(sequence)
            if not line:
                del self._waiting[task]

    def pick(self, judge: Judge, shares: RowShares, taken: int) -> Sequence | None:
        """Take the first sequence that `judge` takes, of tasks that may have one more row.

        Tasks below their share of the rows go first, then the least served; one whose beam search
        takes it above its share goes first only where it is the least served itself. None when
        every sequence was passed over or one said stop or wait.
        """
        present = shares.present(self._waiting.keys())
        least = min(map(self.served, self._waiting), default=0.0)

        def turn(task: str | None) -> tuple[bool, float, int]:
            first, served = self._waiting[task][0], self.served(task)
            is_over = shares.is_over(task, present)
            if (rows := first.sampling.rows) > 1 and served > least:
                is_over = is_over or shares.goes_over(task, present, rows)
            return is_over, served, first.id

        def is_able(task: str | None) -> bool:
            # A beam search gets what is kept back where it gets all of its rows, else it waits.
            rows = self._waiting[task][0].sampling.rows
            return shares.has_ordinary(taken) or shares.may_take(task, taken, rows)

        able = [*filter(is_able, self._waiting)]
        for task in sorted(able, key=turn):
            for sequence in tuple(self._waiting[task]):
                verdict = judge(sequence)
                if verdict in ("stop", "wait"):
                    return None
                if verdict == "pass":
                    continue
                self.discard(sequence)
                if verdict == "take":
                    return sequence
        return None

    def charge(self, task: str | None, cost: float) -> None:
        """Add to what the task was served (prompt_cost, token_cost)."""
        self._served[task] = self.served(task) + cost

    def leave(self, sequence: Sequence) -> None:
        """The sequence ended, wherever it was."""
        task = task_of(sequence)
        self._active[task] -= 1
        if not self._active[task]:
            del self._active[task]
        if not self._active:
            self._served.clear()  # an idle server owes no task anything

    def _floor(self, task: str | None) -> float:
        others = self._waiting.keys() or self._active.keys()
        return min((self.served(other) for other in others if other != task), default=0.0)


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
            self._passed[sequence.id] = sequence.sampling.rows
        if sequence.priority == "low":
            self._low_rows += sequence.sampling.rows
            self._low_served = now
        else:
            self._shares.take(task_of(sequence), sequence.sampling.rows)

    def give_back_rows(self, sequence: Sequence) -> None:
        """It left its rows."""
        self._passed.pop(sequence.id, None)
        if sequence.priority == "low":
            self._low_rows -= sequence.sampling.rows
        else:
            self._shares.give_back(task_of(sequence), sequence.sampling.rows)

    def charge_kept(self, taken: int) -> None:
        """Charge the beam search that waits for a step of the rows that are free, which nothing
        else may have: who asks for many rows and few tokens would stop the others for nothing."""
        if self._large is not None:
            self.charge(self._large, idle_cost(self._shares.free_ordinary(taken)))

    def has_rows(self, sequence: Sequence, taken: int) -> bool:
        """Whether all rows that it needs are free for it while `taken` are in use."""
        rows = sequence.sampling.rows
        if rows == 1:
            return True  # it is looked at where there is a row only
        passed = self._rows_passed
        if self._large is not None and sequence is not self._large:
            return rows <= self._spare - passed and taken + rows <= self._all_rows
        may_take = self._shares.may_take(task_of(sequence), taken, rows)
        return may_take or self._shares.has_ordinary(taken - passed, rows)

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
        if self._rows_passed >= self._spare:
            return None

        def other(sequence: Sequence) -> Verdict:
            verdict = "pass" if task_of(sequence) == task_of(large) else judge(sequence)
            return "pass" if verdict == "wait" else verdict

        return self._queue.pick(other, self._shares, self._all_rows - 1)

    @property
    def _rows_passed(self) -> int:
        return sum(self._passed.values())

    def _forget_large(self) -> None:
        self._large = None
        self._passed.clear()


def task_of(sequence: Sequence) -> str | None:
    """The task a sequence is charged to; None for the bare backbone."""
    ref = sequence.encoding.ref
    return None if ref is None else ref.task


def prompt_cost(encoding: Encoding) -> float:
    """Of encoding a prompt."""
    return len(encoding.prompt) * _lineage(encoding)


def token_cost(sequence: Sequence) -> float:
    """Of its next token."""
    keys = len(sequence.encoding.prompt) + len(sequence.output)
    return (OUTPUT_TOKEN + KEY * keys) * _lineage(sequence.encoding)


def idle_cost(rows: int) -> float:
    """Of a step of rows in which it computes nothing, and nothing else may."""
    return OUTPUT_TOKEN * rows


def _lineage(encoding: Encoding) -> float:
    return 1.0 + ANCESTOR * len(encoding.slots)
