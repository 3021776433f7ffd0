"""The requests of the last minutes, task by task: how many, how long, how many failed.

Kept on write, so that a page which looks at a thousand tasks counts nothing. A cell holds ten
seconds of one task, and its durations by buckets that are three to a doubling: a percentile is off
by at most the square root of a bucket's width, 12.3 %.
"""

from __future__ import annotations

import math
import threading
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import accumulate

CELL_SECONDS = 10.0
CELLS = 30  # five minutes, the running cell included
MOST_TASKS = 2048  # those with the newest requests; each takes 13 KB at most
BUCKETS = 60  # up to 13.8 minutes; the first and the last also take what lies beyond them
SHORTEST = 0.001  # where the first bucket ends, in seconds
PER_DOUBLING = 3
_SHARE = 0.95  # the percentile


@dataclass(frozen=True, slots=True)
class Trend:
    """One task's last minutes, oldest first; one number a cell."""

    per_second: tuple[float, ...]
    p95: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Sum:
    """All of one task's cells together."""

    requests: int
    failed: int


@dataclass(slots=True)
class _Cell:
    number: int  # since the clock's zero
    requests: int = 0
    failed: int = 0
    durations: array[int] = field(default_factory=lambda: array("I", bytes(4 * BUCKETS)))


class Trends:
    """Any thread may add and read."""

    def __init__(self, clock: Callable[[], float], *, most_tasks: int = MOST_TASKS) -> None:
        """`clock` is monotonic, in seconds. Of more than `most_tasks` those are kept that had a
        request last."""
        self._clock = clock
        self._most_tasks = most_tasks
        self._lock = threading.Lock()
        # By task, in the order of their newest cells; a task without any is not in it.
        self._cells: OrderedDict[str, deque[_Cell]] = OrderedDict()

    def add(self, task: str, seconds: float | None, *, is_failed: bool) -> None:
        """Count a request that ended now; `seconds` is None where its time says nothing."""
        number = int(self._clock() // CELL_SECONDS)
        with self._lock:
            cells = self._cells.get(task)
            if cells is None or cells[-1].number < number:
                cells = self._begin(task, number)
            cell = cells[-1]
            cell.requests += 1
            cell.failed += is_failed
            if seconds is not None:
                cell.durations[bucket_of(seconds)] += 1

    def forget(self, task: str) -> None:
        """Drop a task that was removed."""
        with self._lock:
            self._cells.pop(task, None)

    @property
    def tasks(self) -> set[str]:
        """Those of which something is kept."""
        with self._lock:
            return set(self._cells)

    def sum_of(self, task: str) -> Sum:
        """Of all its cells together."""
        first = self._first()
        with self._lock:
            cells = [cell for cell in self._cells.get(task, ()) if cell.number >= first]
            return Sum(sum(c.requests for c in cells), sum(c.failed for c in cells))

    def trend(self, task: str) -> Trend | None:
        """None where it had no request."""
        now = self._clock()
        cells = {cell.number: cell for cell in self._of(task)}
        if not cells:
            return None
        last = int(now // CELL_SECONDS)
        # Half a cell at least, or the first request of a new one would look like a flood.
        running = max(CELL_SECONDS / 2, now - last * CELL_SECONDS)
        rates: list[float] = []
        p95: list[float | None] = []
        for number in range(last - CELLS + 1, last + 1):
            cell = cells.get(number)
            seconds = running if number == last else CELL_SECONDS
            rates.append(0.0 if cell is None else cell.requests / seconds)
            p95.append(None if cell is None else percentile(cell.durations))
        return Trend(tuple(rates), tuple(p95))

    def p95(self, task: str) -> float | None:
        """Of all its cells together; None where no request has a time."""
        return percentile([*map(sum, zip(*(c.durations for c in self._of(task)), strict=True))])

    def _of(self, task: str) -> list[_Cell]:
        """Copies: another thread may count while they are read."""
        first = self._first()
        with self._lock:
            return [
                _Cell(cell.number, cell.requests, cell.failed, cell.durations[:])
                for cell in self._cells.get(task, ())
                if cell.number >= first
            ]

    def _begin(self, task: str, number: int) -> deque[_Cell]:
        """A new cell of the task, which is then the newest of all; old ones and quiet tasks go."""
        cells = self._cells.setdefault(task, deque(maxlen=CELLS))
        cells.append(_Cell(number))
        self._cells.move_to_end(task)
        while cells[0].number <= number - CELLS:
            cells.popleft()
        while next(iter(self._cells.values()))[-1].number <= number - CELLS:
            self._cells.popitem(last=False)
        while len(self._cells) > self._most_tasks:
            self._cells.popitem(last=False)
        return cells

    def _first(self) -> int:
        """The oldest cell that counts."""
        return int(self._clock() // CELL_SECONDS) - CELLS + 1


def bucket_of(seconds: float) -> int:
    """Which bucket holds a duration."""
    if seconds <= SHORTEST:
        return 0
    return min(BUCKETS - 1, math.ceil(PER_DOUBLING * math.log2(seconds / SHORTEST)))


def percentile(counts: Iterable[int]) -> float | None:
    """Seconds below which 95 % of the durations lie: the middle, on a log scale, of their bucket.

    The rank is the nearest one: the smallest duration that is at least as long as 95 % of them.
    """
    sums = [*accumulate(counts)]
    if not sums or not sums[-1]:
        return None
    rank = math.ceil(_SHARE * sums[-1])
    bucket = next(index for index, total in enumerate(sums) if total >= rank)
    return float(SHORTEST * 2.0 ** ((bucket - 0.5) / PER_DOUBLING))
