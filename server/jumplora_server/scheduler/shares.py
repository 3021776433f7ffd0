"""How many rows each task holds, and may hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set


class RowShares:
    """The rows of normal sequences by task (None: the bare backbone). Pure counting, one thread.

    The last `spare` rows are for tasks that hold none, so that a task that was quiet waits for no
    other task's rows. Of the rest, a task holds its even share at most while another that is below
    its own waits. A row that no task below its share wants goes to the one that is next.
    """

    def __init__(self, rows: int, spare: int) -> None:
        """`spare` of the `rows` are kept back; at least one is not."""
        assert 0 <= spare < rows, f"{spare} of {rows} rows cannot be kept back"
        self._all = rows
        self._ordinary = rows - spare
        self._held: Counter[str | None] = Counter()

    @property
    def tasks(self) -> int:
        """How many tasks hold rows."""
        return len(self._held)

    def take(self, task: str | None, rows: int = 1) -> None:
        """A sequence of the task got its rows."""
        self._held[task] += rows

    def give_back(self, task: str | None, rows: int = 1) -> None:
        """A sequence of the task left its rows."""
        self._held[task] -= rows
        if not self._held[task]:
            del self._held[task]

    def may_take(self, task: str | None, taken: int, rows: int = 1) -> bool:
        """Whether the task may have more rows while `taken` are in use, by any priority."""
        is_quiet = not self._held[task]
        return self.has_ordinary(taken, rows) or (is_quiet and taken + rows <= self._all)

    def has_ordinary(self, taken: int, rows: int = 1) -> bool:
        """Whether so many rows are free that are not kept back."""
        return taken + rows <= self._ordinary

    def present(self, waiting: Set[str | None]) -> int:
        """How many tasks hold rows or are among those that wait."""
        return len(self._held.keys() | waiting)

    def is_over(self, task: str | None, present: int) -> bool:
        """Whether the task holds its even share among so many tasks, or more."""
        return self._held[task] * present >= self._ordinary

    def goes_over(self, task: str | None, present: int, rows: int) -> bool:
        """Whether the task would hold more than its even share with so many rows more."""
        return (self._held[task] + rows) * present > self._ordinary

    def free_ordinary(self, taken: int) -> int:
        """How many rows are free that are not kept back."""
        return max(0, self._ordinary - taken)
