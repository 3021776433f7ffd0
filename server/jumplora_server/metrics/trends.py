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
from operator import sub

CELL_SECONDS = 10.0
CELLS = 30  # five minutes, the running cell included
MOST_TASKS = 2048  # those with the newest requests; each takes 13 KB at most
BUCKETS = 60  # up to 13.8 minutes; the first and the last also take what lies beyond them
SHORTEST = 0.001  # where the first bucket ends, in seconds
PER_DOUBLING = 3
_SHARE = 0.95  # the percentile


@dataclass(frozen=True, slots=True)
class Trend:
    """One task's last minutes: a number for each cell, oldest first, and those of all together.

    Without a request in them there are no cells.
    """

    per_second: tuple[float, ...]
    p95_each: tuple[float | None, ...]
    p95: float | None
    requests: int
    failed: int


@dataclass(frozen=True, slots=True)
class Sum:
    """All of one task's cells together."""

    requests: int
    failed: int


def _no_durations() -> array[int]:
    return array("I", bytes(4 * BUCKETS))


@dataclass(slots=True)
class _Cell:
    number: int  # since the clock's zero
    requests: int = 0
    failed: int = 0
    durations: array[int] = field(default_factory=_no_durations)
    p95: float | None = None  # once it is known, for which it must be closed
    is_known: bool = False


@dataclass(slots=True)
class _Kept:
    """A task's cells, and their sums, so that an order of many tasks costs little."""

    cells: deque[_Cell] = field(default_factory=deque)
    requests: int = 0
    failed: int = 0
    durations: array[int] = field(default_factory=_no_durations)

    def drop_before(self, first: int) -> None:
        """Forget the cells before that number."""
        while self.cells and self.cells[0].number < first:
            old = self.cells.popleft()
            self.requests -= old.requests
            self.failed -= old.failed
            self.durations = array("I", map(sub, self.durations, old.durations))


class Trends:
    """Any thread may add and read."""

    def __init__(self, clock: Callable[[], float], *, most_tasks: int = MOST_TASKS) -> None:
        """`clock` is monotonic, in seconds. Of more than `most_tasks` those are kept that had a
        request last."""
        self._clock = clock
        self._most_tasks = most_tasks
        self._lock = threading.Lock()
        # In the order of their newest cells; a task without any is not in it.
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def add(self, task: str, seconds: float | None, *, is_failed: bool) -> None:
        """Count a request that ended now; `seconds` is None where its time says nothing."""
        number = int(self._clock() // CELL_SECONDS)
        with self._lock:
            kept = self._kept.get(task)
            if kept is None or kept.cells[-1].number < number:
                kept = self._begin(task, number)
            cell = kept.cells[-1]
            cell.requests += 1
            kept.requests += 1
            cell.failed += is_failed
            kept.failed += is_failed
            if seconds is not None:
                bucket = bucket_of(seconds)
                cell.durations[bucket] += 1
                kept.durations[bucket] += 1

    def forget(self, task: str) -> None:
        """Drop a task that was removed."""
        with self._lock:
            self._kept.pop(task, None)

    @property
    def tasks(self) -> set[str]:
        """Those of which something is kept."""
        with self._lock:
            return set(self._kept)

    def sum_of(self, task: str) -> Sum:
        """Of all its cells together."""
        with self._lock:
            kept = self._current(task, self._clock())
            return Sum(0, 0) if kept is None else Sum(kept.requests, kept.failed)

    def p95(self, task: str) -> float | None:
        """Of all its cells together; None where no request has a time."""
        with self._lock:
            kept = self._current(task, self._clock())
            durations = _no_durations() if kept is None else kept.durations[:]
        return percentile(durations)

    def look(self, task: str) -> Trend:
        """All of it at once."""
        now = self._clock()
        with self._lock:
            kept = self._current(task, now)
            if kept is None:
                return Trend((), (), None, 0, 0)
            *closed, newest = kept.cells  # nothing is counted in those that are closed
            running = _Cell(newest.number, newest.requests, durations=newest.durations[:])
            requests, failed, durations = kept.requests, kept.failed, kept.durations[:]
        cells = {cell.number: cell for cell in (*closed, running)}
        last = int(now // CELL_SECONDS)
        # Half a cell at least, or the first request of a new one would look like a flood.
        seconds = max(CELL_SECONDS / 2, now - last * CELL_SECONDS)
        rates: list[float] = []
        p95: list[float | None] = []
        for number in range(last - CELLS + 1, last + 1):
            cell = cells.get(number)
            requests_of = 0 if cell is None else cell.requests
            rates.append(requests_of / (seconds if number == last else CELL_SECONDS))
            p95.append(None if cell is None else _p95_of(cell))
        return Trend(tuple(rates), tuple(p95), percentile(durations), requests, failed)

    # From here on the lock is held.

    def _current(self, task: str, now: float) -> _Kept | None:
        """A task that has a cell that counts now."""
        kept = self._kept.get(task)
        if kept is not None:
            kept.drop_before(int(now // CELL_SECONDS) - CELLS + 1)
            if not kept.cells:
                del self._kept[task]
                return None
        return kept

    def _begin(self, task: str, number: int) -> _Kept:
        """A new cell of the task, which is then the newest of all; old ones and quiet tasks go."""
        kept = self._kept.setdefault(task, _Kept())
        kept.cells.append(_Cell(number))
        self._kept.move_to_end(task)
        kept.drop_before(number - CELLS + 1)
        while next(iter(self._kept.values())).cells[-1].number <= number - CELLS:
            self._kept.popitem(last=False)
        while len(self._kept) > self._most_tasks:
            self._kept.popitem(last=False)
        return kept


def _p95_of(cell: _Cell) -> float | None:
    if not cell.is_known:
        cell.p95, cell.is_known = percentile(cell.durations), True
    return cell.p95


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
