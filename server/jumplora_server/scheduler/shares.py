"""How the rows are shared: who may take a free one, by the rows that tasks hold. Pure counting.

The last `spare` rows are for tasks that hold none, so that a task that was quiet waits for no other
task's rows. Of the rest, a task holds its even share at most while another that is below its own
waits. A row that no task below its share wants goes to the one that is next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set


class RowShares:
    """The rows of normal sequences by task (None: the bare backbone). One thread."""

    def __init__(self, rows: int, spare: int) -> None:
        """`spare` of the `rows` are kept back; at least one is not."""
        assert 0 <= spare < rows, f"{spare} of {rows} rows cannot be kept back"
        self._ordinary = rows - spare
        self._held: Counter[str | None] = Counter()

    @property
    def tasks(self) -> int:
        """How many tasks hold rows."""
        return len(self._held)

    def take(self, task: str | None) -> None:
        """A sequence of the task got a row."""
        self._held[task] += 1

    def give_back(self, task: str | None) -> None:
        """A sequence of the task left its row."""
        self._held[task] -= 1
        if not self._held[task]:
            del self._held[task]

    def may_take(self, task: str | None, taken: int) -> bool:
        """Whether the task may have one more row while `taken` are in use, by any priority."""
        return self.has_ordinary(taken) or not self._held[task]

    def has_ordinary(self, taken: int) -> bool:
        """Whether a row is free that is not kept back."""
        return taken < self._ordinary

    def present(self, waiting: Set[str | None]) -> int:
        """How many tasks hold rows or are among those that wait."""
        return len(self._held.keys() | waiting)

    def is_over(self, task: str | None, present: int) -> bool:
        """Whether the task holds its even share among so many tasks, or more."""
        return self._held[task] * present >= self._ordinary
