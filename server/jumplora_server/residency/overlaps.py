"""How much the supports of served adapters overlap, pair by pair, beside what chance would give.

Called by the loader's thread when it has nothing to load: one pair a call. Masks are read from the
files again for each pair, since a task's are 5 MB for T5-base and 75 MB for T5-3B: kept for every
task they would be a second adapter budget without a setting, and a file that was just loaded is
in the system's cache anyway. Must not know slots or engines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import combinations

from jumplora_adapters.errors import AdapterError
from jumplora_adapters.overlap import overlap_pair
from jumplora_server.metrics.overlap import OverlapSnapshot
from jumplora_server.residency.reader import StoreReader
from jumplora_server.residency.status import TaskStatus

_log = logging.getLogger(__name__)

Pair = tuple[str, str]  # two tasks, sorted
Versions = tuple[str, str]  # what they serve


class Overlaps:
    """Which tasks are compared, and what came of it.

    Of more than `max_tasks`, those are compared that were there first. An adapter's own delta
    counts, not its lineage. Low-rank adapters are left out: they keep every entry, so their Jaccard
    index is its own chance level, whatever they learned. So are empty ones, which share nothing.
    """

    def __init__(self, reader: StoreReader, max_tasks: int) -> None:
        self._reader = reader
        self._max_tasks = max_tasks
        self._order: list[str] = []
        self._known: dict[Pair, tuple[Versions, OverlapSnapshot | None]] = {}

    def compare(self, statuses: Iterable[TaskStatus]) -> tuple[OverlapSnapshot, ...] | None:
        """Compare the next pair that is not known; all known ones, None when nothing was to do."""
        served = {s.task_id: s.version for s in statuses if s.version and _is_comparable(s)}
        self._order = [task for task in self._order if task in served]
        self._order += [task for task in served if task not in self._order]
        del self._order[self._max_tasks :]
        pairs = {
            pair: (served[pair[0]], served[pair[1]])
            for pair in combinations(sorted(self._order), 2)
        }
        self._known = {
            pair: known for pair, known in self._known.items() if pairs.get(pair) == known[0]
        }
        missing = next((pair for pair in pairs if pair not in self._known), None)
        if missing is None:
            return None
        self._known[missing] = pairs[missing], self._compared(missing, pairs[missing])
        return tuple(overlap for _, overlap in self._known.values() if overlap is not None)

    def _compared(self, tasks: Pair, versions: Versions) -> OverlapSnapshot | None:
        try:
            first, second = (self._reader.supports(version) for version in versions)
            pair = overlap_pair(tasks[0], first, tasks[1], second)
        except (AdapterError, OSError) as error:
            # Such as a file that is gone: a figure less. Its own load says what is wrong.
            _log.info("tasks %s and %s are not compared: %s", *tasks, error)
            return None
        if not (pair.first_density and pair.second_density):
            return None
        return OverlapSnapshot(tasks, versions, pair.jaccard, pair.chance)


def _is_comparable(status: TaskStatus) -> bool:
    # Non-zeros are counted when a version was loaded: before that its file was not checked.
    masked = status.manifest is not None and status.manifest.kind != "lowrank"
    return masked and status.nonzeros > 0
