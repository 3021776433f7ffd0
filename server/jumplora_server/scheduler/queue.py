"""What waits for a row, and whose turn it is: fair between tasks, in order of arrival within one.

A virtual token counter per task (VTC, Sheng et al., arXiv 2401.00588): the backlogged task that was
served least goes first, and a task that comes back is lifted to the others, so that idle time
cannot be saved up.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Literal

from jumplora_server.core import Sequence
from jumplora_server.scheduler.shares import RowShares

# take: remove and return it; drop: remove it, it is accounted for; pass: leave it and look on;
# stop: leave it, nothing after it may go before it.
Verdict = Literal["take", "drop", "pass", "stop"]


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

    def pick(
        self, judge: Callable[[Sequence], Verdict], shares: RowShares, taken: int
    ) -> Sequence | None:
        """Take the first sequence that `judge` takes, of tasks that may have one more row.

        Tasks below their share of the rows go first, then the least served. None when every
        sequence was passed over or one said stop.
        """
        present = shares.present(self._waiting.keys())

        def turn(task: str | None) -> tuple[bool, float, int]:
            return shares.is_over(task, present), self.served(task), self._waiting[task][0].id

        able = [task for task in self._waiting if shares.may_take(task, taken)]
        for task in sorted(able, key=turn):
            for sequence in tuple(self._waiting[task]):
                verdict = judge(sequence)
                if verdict == "stop":
                    return None
                if verdict == "pass":
                    continue
                self.discard(sequence)
                if verdict == "take":
                    return sequence
        return None

    def charge(self, task: str | None, cost: float) -> None:
        """Add to what the task was served (scheduler/costs)."""
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


def task_of(sequence: Sequence) -> str | None:
    """The task a sequence is charged to; None for the bare backbone."""
    ref = sequence.encoding.ref
    return None if ref is None else ref.task
