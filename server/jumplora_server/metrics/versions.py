"""What is counted of each version while a task has a staged one, and for a while after: for the
metrics page, and for the judgement of whether the staged one is worse.

Of a task without a staged version nothing is kept, so the number of series is bounded by the few
tasks that have one.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from jumplora_server.core import Role, Timing
from jumplora_server.metrics import table
from jumplora_server.metrics.tasks import Outcome
from jumplora_server.metrics.trends import BUCKETS, bucket_of

KEPT_SECONDS = 900.0  # after the end of a stage: three of the longest windows of dashboards
MOST_TASKS = 32  # with series
MOST_VERSIONS = 6  # of a task, each in one role; the series of the oldest go first

# A client that erred or hung up, and a full queue, say nothing of the version.
_OF_THE_VERSION: tuple[Outcome, ...] = ("ok", "error", "timeout")


class Counts(NamedTuple):
    """Requests of a version that ended well or by a fault of the server, and how long the good ones
    took: a number for each of the buckets that trends have."""

    requests: int
    failed: int
    durations: tuple[int, ...]

    def since(self, before: Counts) -> Counts:
        """What came after `before`."""
        pairs = zip(self.durations, before.durations, strict=True)
        durations = tuple(now - then for now, then in pairs)
        return Counts(self.requests - before.requests, self.failed - before.failed, durations)


NOTHING = Counts(0, 0, (0,) * BUCKETS)


@dataclass(slots=True)
class _Tally:
    requests: int = 0
    failed: int = 0
    durations: array[int] = field(default_factory=lambda: array("I", bytes(4 * BUCKETS)))

    def add(self, outcome: Outcome, timing: Timing | None) -> None:
        self.requests += 1
        self.failed += outcome != "ok"
        if outcome == "ok" and timing is not None:
            self.durations[bucket_of(timing.total)] += 1


@dataclass(slots=True)
class _Watched:
    """A task that has a staged version, or (`until` is a time) had one."""

    staged: str
    share: float
    until: float | None = None
    tallies: dict[str, _Tally] = field(default_factory=dict)
    series: OrderedDict[tuple[str, Role], None] = field(default_factory=OrderedDict)


class VersionTable:
    """Thread-safe. `label_of` gives the `task_id` label of a task. A task that has no label of its
    own has no series here, nor has one while `MOST_TASKS` others have."""

    def __init__(
        self,
        registry: CollectorRegistry,
        clock: Callable[[], float],
        label_of: Callable[[str | None], str],
    ) -> None:
        self._clock = clock
        self._label_of = label_of
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._shown: set[str] = set()  # tasks with series
        self._requests = table.VERSION_REQUESTS.counter(registry)
        self._durations = table.VERSION_DURATION.histogram(registry)
        self._share = table.STAGED_SHARE.gauge(registry)
        self._endings = table.STAGE_ENDINGS.counter(registry)

    def stage(self, task: str, version: str | None, share: float) -> None:
        """A task's staged version, None where it has none, and the share that it gets here."""
        watched = self._watched.get(task)
        if version is None and (watched is None or watched.until is not None):
            return
        now = self._clock()
        with self._lock:
            watched = self._watched.get(task)
            if watched is not None and watched.staged != version:
                self._drop_share(task, watched)
            if version is None:
                if watched is not None:
                    watched.until = now + KEPT_SECONDS
            elif watched is None or watched.until is not None or watched.staged != version:
                series = OrderedDict() if watched is None else watched.series
                self._watched[task] = _Watched(version, share, series=series)
            else:
                watched.share = share
            self._forget_old(now)
            if version is not None and self._has_series(task):
                self._share.labels(task, version).set(share)
                self._use_series(task, self._watched[task], (version, "staged"))

    def finished(
        self,
        task: str,
        version: str,
        role: Role,
        outcome: Outcome,
        timing: Timing | None,
        *,
        is_judged: bool,
    ) -> None:
        """Count a request of a version; nothing for a task of which none was staged lately.

        It `is_judged` where chance alone gave it to this version, and no other was with it: what is
        asked for by name, or together, would compare other requests than the other version got.
        """
        if task not in self._watched:
            return
        with self._lock:
            watched = self._watched.get(task)
            if watched is None:
                return
            if is_judged and outcome in _OF_THE_VERSION and watched.until is None:
                watched.tallies.setdefault(version, _Tally()).add(outcome, timing)
            if not self._has_series(task):
                return
            self._use_series(task, watched, (version, role))
            self._requests.labels(task, version, role, outcome).inc()
            if outcome in _OF_THE_VERSION and timing is not None:
                self._durations.labels(task, version, role).observe(timing.total)

    def counts(self, task: str, version: str) -> Counts:
        """What is judged of a version, since its task's staged one was staged here."""
        with self._lock:
            watched = self._watched.get(task)
            tally = None if watched is None else watched.tallies.get(version)
            if tally is None:
                return NOTHING
            return Counts(tally.requests, tally.failed, tuple(tally.durations))

    def ended(self, task: str, ending: str, cause: str) -> None:
        """Count a stage that was ended from here."""
        with self._lock:
            self._endings.labels(self._label_of(task), ending, cause).inc()

    def forget(self, task: str) -> None:
        """Drop all of a task that was removed."""
        with self._lock:
            watched = self._watched.pop(task, None)
            if watched is not None:
                self._drop(task, watched)
            self._endings.remove_by_labels({"task_id": task})

    # From here on the lock is held.

    def _has_series(self, task: str) -> bool:
        if self._label_of(task) != task:
            return False
        if task not in self._shown and len(self._shown) < MOST_TASKS:
            self._shown.add(task)
        return task in self._shown

    def _forget_old(self, now: float) -> None:
        for task, watched in tuple(self._watched.items()):
            if watched.until is not None and watched.until <= now:
                del self._watched[task]
                self._drop(task, watched)

    def _drop(self, task: str, watched: _Watched) -> None:
        self._shown.discard(task)
        self._drop_share(task, watched)
        for key in watched.series:
            self._drop_series(task, key)

    def _drop_share(self, task: str, watched: _Watched) -> None:
        self._share.remove_by_labels({"task_id": task, "version": watched.staged})

    def _use_series(self, task: str, watched: _Watched, key: tuple[str, Role]) -> None:
        """Keep the series of a version as the newest. They begin with zeros: a rate does not see a
        counter that starts at 1, and a share of failures needs those that did not happen."""
        if key not in watched.series:
            for outcome in _OF_THE_VERSION:
                self._requests.labels(task, *key, outcome)
            self._durations.labels(task, *key)
        watched.series[key] = None
        watched.series.move_to_end(key)
        while len(watched.series) > MOST_VERSIONS:
            self._drop_series(task, watched.series.popitem(last=False)[0])

    def _drop_series(self, task: str, key: tuple[str, Role]) -> None:
        version, role = key
        labels = {"task_id": task, "version": version, "role": role}
        self._requests.remove_by_labels(labels)
        self._durations.remove_by_labels(labels)
