"""Which `task_id` label a task gets, and the counters and histograms of each label.

A label value is a task id only while that task is registered: what clients type never becomes a
series. Everything that could create a series runs under one lock; the request path only looks up
a dict and uses children made at registration, so a removed task's late counts cannot bring its
series back (they count as `_unknown`, or into children that are not collected any more).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

from jumplora_server.metrics import table

Outcome = Literal[
    "ok",
    "error",
    "timeout",
    "shed",
    "client_invalid",
    "client_unknown_task",
    "client_auth",
    "client_disconnect",
    "client_deadline",
    "client_quota",
]
Late = Literal["timeout", "client_deadline"]
"""How a request ends whose deadline passed: the server's own limit, or a shorter one that the
client gave. Only the first is a failure of the server's."""

EvictionReason = Literal["lru", "replaced", "unload"]
AbstentionCause = Literal["probability", "mass"]

BASE = "_base"  # the bare backbone
UNKNOWN = "_unknown"  # not registered (any more)
OTHER = "_other"  # registered, beyond the limit of labels
RESERVED = frozenset({BASE, UNKNOWN, OTHER})  # no task id starts with an underscore


@dataclass(frozen=True, slots=True)
class TaskSeries:
    """The client's children of one label value, looked up once."""

    label: str
    requests: Mapping[str, Counter]  # by Outcome
    duration: Histogram
    queue: Histogram
    encode: Histogram
    decode: Histogram
    first_token: Histogram
    per_token: Histogram
    prompt_tokens: Counter
    generation_tokens: Counter


@dataclass(frozen=True, slots=True)
class ChoicesSeries:
    """Of one label value that was asked with choices."""

    mass: Histogram
    abstentions: Mapping[str, Counter]  # by AbstentionCause


@dataclass(frozen=True, slots=True)
class AdapterSeries:
    """The counters of one task's adapter."""

    loads: Counter
    swaps: Counter
    rollbacks: Counter
    evictions: Mapping[str, Counter]  # by EvictionReason


class TaskTable:
    """Registered tasks, their series and their requests in flight. `of` is safe and cheap from any
    thread.
    """

    def __init__(self, registry: CollectorRegistry, max_labels: int) -> None:
        if max_labels < 1:
            raise ValueError(f"max_task_labels is {max_labels}, allowed are 1 and more")
        self._max_labels = max_labels
        self._lock = threading.Lock()
        self._series: dict[str, TaskSeries] = {}  # by task id, and by reserved label
        self._adapters: dict[str, AdapterSeries] = {}  # by task id, and OTHER
        self._choices: dict[str, ChoicesSeries] = {}  # by label, made when first asked for
        self._own_labels: set[str] = set()
        self._in_flight_lock = threading.Lock()  # its own: a registration takes a while
        self._in_flight: dict[str | None, int] = {}  # by the task as given; no zeros
        self._requests = table.REQUESTS.counter(registry)
        self._duration = table.REQUEST_DURATION.histogram(registry)
        self._queue = table.REQUEST_QUEUE.histogram(registry)
        self._encode = table.REQUEST_ENCODE.histogram(registry)
        self._decode = table.REQUEST_DECODE.histogram(registry)
        self._first_token = table.FIRST_TOKEN.histogram(registry)
        self._per_token = table.PER_TOKEN.histogram(registry)
        self._prompt_tokens = table.PROMPT_TOKENS.counter(registry)
        self._generation_tokens = table.GENERATION_TOKENS.counter(registry)
        self._mass = table.CHOICES_MASS.histogram(registry)
        self._abstentions = table.ABSTENTIONS.counter(registry)
        self._loads = table.ADAPTER_LOADS.counter(registry)
        self._load_failures = table.ADAPTER_LOAD_FAILURES.counter(registry)
        self._publishes_refused = table.PUBLISHES_REFUSED.counter(registry)
        self._swaps = table.ADAPTER_SWAPS.counter(registry)
        self._rollbacks = table.ADAPTER_ROLLBACKS.counter(registry)
        self._evictions = table.ADAPTER_EVICTIONS.counter(registry)
        self._labelled = (
            self._requests, self._duration, self._queue, self._encode, self._decode,
            self._first_token, self._per_token, self._prompt_tokens, self._generation_tokens,
            self._mass, self._abstentions, self._loads, self._load_failures, self._swaps,
            self._rollbacks, self._evictions, self._publishes_refused,
        )  # fmt: skip

    def register(self, task: str) -> None:
        """Give the task its name as label, or `_other` when the limit is reached.

        A task under `_other` gets its own label when it is registered again after one was freed.
        """
        if task in self._own_labels or task in RESERVED:
            return
        with self._lock:
            if task in self._own_labels:
                return
            label = OTHER
            if len(self._own_labels) < self._max_labels:
                label = task
                self._own_labels.add(task)
            self._adapters[task] = self._make_adapter(label)
            self._series[task] = self._make_series(label)

    def remove(self, task: str) -> None:
        """Forget the task and drop its series. Unknown tasks are ignored."""
        with self._lock:
            if task in RESERVED or self._series.pop(task, None) is None:
                return
            del self._adapters[task]
            if task not in self._own_labels:
                return
            self._own_labels.discard(task)
            self._choices.pop(task, None)
            for instrument in self._labelled:
                instrument.remove_by_labels({"task_id": task})

    def of(self, task: str | None) -> TaskSeries:
        """Return the series that counts for `task` (None: the bare backbone)."""
        found = self._series.get(BASE if task is None else task)
        if found is not None:
            return found
        return self._reserved(BASE if task is None else UNKNOWN)

    def choices_of(self, task: str | None) -> ChoicesSeries:
        """The series of choices that count for `task`. Many tasks are never asked with any."""
        found = self._choices.get(self.of(task).label)
        if found is not None:
            return found
        with self._lock:  # a removal in between would leave a series behind
            name = BASE if task is None else task
            label = self._series[name].label if name in self._series else UNKNOWN
            found = self._choices.get(label)
            if found is None:
                found = self._choices[label] = self._make_choices(label)
            return found

    def add_in_flight(self, task: str | None, delta: int) -> None:
        """Change the number in flight.

        It is kept by the given name, so that the end of a request meets its beginning even when
        the task was removed or published in between. The size is bounded by what is in flight.
        """
        with self._in_flight_lock:
            count = self._in_flight.get(task, 0) + delta
            if count > 0:
                self._in_flight[task] = count
            else:
                self._in_flight.pop(task, None)

    @property
    def in_flight(self) -> dict[str | None, int]:
        """How many requests are in flight, by the task as given."""
        with self._in_flight_lock:
            return self._in_flight.copy()

    def adapter_of(self, task: str) -> AdapterSeries | None:
        """Return the adapter counters of a registered task, else None."""
        return self._adapters.get(task)

    def load_failed(self, task: str, code: str) -> None:
        """Count a failed load. Codes are made on demand: no task has all of them."""
        with self._lock:  # a removal in between would leave a series behind
            series = self._series.get(task)
            label = UNKNOWN if series is None else series.label
            self._load_failures.labels(label, code).inc()

    def publish_refused(self, task: str | None, code: str) -> None:
        """Count a refused publish; None is a task that was not registered before it."""
        with self._lock:
            series = None if task is None else self._series.get(task)
            label = UNKNOWN if series is None else series.label
            self._publishes_refused.labels(label, code).inc()

    def label_of(self, task: str | None) -> str:
        """Return the `task_id` label value of a task, without making any series."""
        if task is None:
            return BASE
        series = self._series.get(task)
        return UNKNOWN if series is None else series.label

    def registered(self) -> tuple[str, ...]:
        """Return the registered task ids, in the order of their registration."""
        return tuple(self._adapters)

    def _reserved(self, label: str) -> TaskSeries:
        with self._lock:
            found = self._series.get(label)
            if found is None:
                found = self._series[label] = self._make_series(label)
            return found

    def _make_series(self, label: str) -> TaskSeries:
        return TaskSeries(
            label=label,
            requests={o: self._requests.labels(label, o) for o in get_args(Outcome)},
            duration=self._duration.labels(label),
            queue=self._queue.labels(label),
            encode=self._encode.labels(label),
            decode=self._decode.labels(label),
            first_token=self._first_token.labels(label),
            per_token=self._per_token.labels(label),
            prompt_tokens=self._prompt_tokens.labels(label),
            generation_tokens=self._generation_tokens.labels(label),
        )

    def _make_choices(self, label: str) -> ChoicesSeries:
        return ChoicesSeries(
            mass=self._mass.labels(label),
            abstentions={
                cause: self._abstentions.labels(label, cause) for cause in get_args(AbstentionCause)
            },
        )

    def _make_adapter(self, label: str) -> AdapterSeries:
        return AdapterSeries(
            loads=self._loads.labels(label),
            swaps=self._swaps.labels(label),
            rollbacks=self._rollbacks.labels(label),
            evictions={r: self._evictions.labels(label, r) for r in get_args(EvictionReason)},
        )
