"""Values that are read when somebody scrapes: adapter gauges, requests in flight, the heartbeat.

Each is one replaceable snapshot, so a version that changed or a task that went leaves no series
behind. Writers replace whole values; the collector copies dicts (atomic under the interpreter
lock) before it walks them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from jumplora_server.metrics import table
from jumplora_server.metrics.table import Instrument
from jumplora_server.metrics.tasks import OTHER, TaskTable

AdapterState = Literal["COLD", "LOADING", "READY", "DRAINING", "FAILED"]
Tier = Literal["disk", "host", "device"]
Stage = Literal["read", "fold", "pack", "warmup", "canaries"]
ScoreName = Literal["test_exact_match", "dev_exact_match"]
Row = tuple[str, tuple[str, ...], float]  # task, the labels after task_id, value

STATES: tuple[AdapterState, ...] = ("COLD", "LOADING", "READY", "DRAINING", "FAILED")
_VERSION_DIGITS = 12  # enough of a digest to read aloud; the whole one is another label


@dataclass(frozen=True, slots=True)
class AdapterQuality:
    """How good a version is said to be, and was found to be. None: not known.

    `accuracy` is the share that its score named `score` gives.
    """

    score: ScoreName | None = None
    accuracy: float | None = None
    canary_accuracy: float | None = None
    backward_transfer: float | None = None


@dataclass(frozen=True, slots=True)
class AdapterSnapshot:
    """What is known of one task's adapter now. `version` is the served digest, if any, and
    `quality` is that version's.
    """

    version: str | None
    state: AdapterState
    bytes_by_tier: Mapping[Tier, int]
    nonzeros: int
    density: float
    degraded: bool
    quality: AdapterQuality


@dataclass(frozen=True, slots=True)
class LoraRequests:
    """Tasks with running and with waiting sequences, sorted; `changed` in Unix seconds."""

    running: tuple[str, ...]
    waiting: tuple[str, ...]
    max_slots: int
    changed: float


class StateCollector(Collector):
    """Holds the snapshots and turns them into gauge families at a scrape."""

    def __init__(self, tasks: TaskTable, clock: Callable[[], float]) -> None:
        self._tasks = tasks
        self._clock = clock
        self._adapters: dict[str, AdapterSnapshot] = {}
        self._loads: dict[str, Mapping[Stage, float]] = {}
        self.last_beat: float | None = None  # when the engine made progress
        self.lora: LoraRequests | None = None  # for the inference gateway

    def version_of(self, task: str) -> str | None:
        """The digest that the task serves, if any."""
        adapter = self._adapters.get(task)
        return None if adapter is None else adapter.version

    def set_adapter(self, task: str, snapshot: AdapterSnapshot) -> None:
        """Replace what is known of the task's adapter."""
        self._adapters[task] = snapshot

    def set_load(self, task: str, seconds_by_stage: Mapping[Stage, float]) -> None:
        """Replace the stages of the task's newest load."""
        self._loads[task] = dict(seconds_by_stage)

    def forget(self, task: str) -> None:
        """Drop the task's adapter and load. Its requests in flight stay counted."""
        self._adapters.pop(task, None)
        self._loads.pop(task, None)

    def describe(self) -> Iterable[Metric]:
        """Name the families, so that the registry refuses a second owner of a name."""
        return [instrument.family() for instrument in table.READ_AT_SCRAPE]

    def collect(self) -> Iterator[Metric]:
        """Yield the families with their values."""
        adapters = self._adapters.copy()
        loads = self._loads.copy()
        yield self._in_flight_family()
        yield self._family(table.ADAPTER_MEMORY, _memory(adapters))
        yield self._family(
            table.ADAPTER_NONZEROS, ((task, (), a.nonzeros) for task, a in adapters.items())
        )
        yield self._family(table.ADAPTER_STATE, _states(adapters))
        yield self._family(
            table.ADAPTER_DEGRADED, ((task, (), float(a.degraded)) for task, a in adapters.items())
        )
        yield self._family(
            table.ADAPTER_DENSITY, ((task, (), a.density) for task, a in adapters.items()), "skip"
        )
        yield self._family(table.ADAPTER_ACCURACY, _accuracies(adapters), "skip")
        yield self._family(
            table.ADAPTER_CANARY_ACCURACY,
            _qualities(adapters, lambda quality: quality.canary_accuracy),
            "skip",
        )
        yield self._family(
            table.ADAPTER_BACKWARD_TRANSFER,
            _qualities(adapters, lambda quality: quality.backward_transfer),
            "skip",
        )
        yield self._family(table.ADAPTER_INFO, _versions(adapters), "skip")
        yield self._family(
            table.ADAPTER_LAST_LOAD,
            ((task, (stage,), s) for task, stages in loads.items() for stage, s in stages.items()),
            "skip",
        )
        yield self._heartbeat_family()
        yield self._lora_family()

    def _family(
        self, instrument: Instrument, rows: Iterable[Row], other: Literal["sum", "skip"] = "sum"
    ) -> GaugeMetricFamily:
        """Label the rows. Tasks that share the label `_other` are summed, or skipped where a sum
        would mean nothing.
        """
        sums: dict[tuple[str, ...], float] = {}
        for task, labels, value in rows:
            label = self._tasks.label_of(task)
            if label == OTHER and other == "skip":
                continue
            key = (label, *labels)
            sums[key] = sums.get(key, 0.0) + value
        family = instrument.family()
        for key, value in sums.items():
            family.add_metric(key, value)
        return family

    def _in_flight_family(self) -> GaugeMetricFamily:
        sums = dict.fromkeys(map(self._tasks.label_of, self._tasks.registered()), 0)
        for task, count in self._tasks.in_flight.items():
            label = self._tasks.label_of(task)
            sums[label] = sums.get(label, 0) + count
        family = table.IN_FLIGHT.family()
        for label, count in sums.items():
            family.add_metric((label,), count)
        return family

    def _heartbeat_family(self) -> GaugeMetricFamily:
        family = table.HEARTBEAT.family()
        if self.last_beat is not None:
            family.add_metric((), max(0.0, self._clock() - self.last_beat))
        return family

    def _lora_family(self) -> GaugeMetricFamily:
        family = table.VLLM_LORA.family()
        lora = self.lora
        if lora is not None:
            labels = (str(lora.max_slots), ",".join(lora.running), ",".join(lora.waiting))
            family.add_metric(labels, lora.changed)
        return family


def _memory(adapters: Mapping[str, AdapterSnapshot]) -> Iterator[Row]:
    for task, adapter in adapters.items():
        for tier, nbytes in adapter.bytes_by_tier.items():
            yield task, (tier,), nbytes


def _states(adapters: Mapping[str, AdapterSnapshot]) -> Iterator[Row]:
    for task, adapter in adapters.items():
        for state in STATES:
            yield task, (state,), float(adapter.state == state)


def _versions(adapters: Mapping[str, AdapterSnapshot]) -> Iterator[Row]:
    for task, adapter in adapters.items():
        if adapter.version is not None:
            yield task, (adapter.version[:_VERSION_DIGITS], adapter.version), 1.0


def _accuracies(adapters: Mapping[str, AdapterSnapshot]) -> Iterator[Row]:
    for task, adapter in adapters.items():
        score, accuracy = adapter.quality.score, adapter.quality.accuracy
        if adapter.version is not None and score is not None and accuracy is not None:
            yield task, (adapter.version[:_VERSION_DIGITS], score), accuracy


def _qualities(
    adapters: Mapping[str, AdapterSnapshot], value_of: Callable[[AdapterQuality], float | None]
) -> Iterator[Row]:
    for task, adapter in adapters.items():
        value = value_of(adapter.quality)
        if adapter.version is not None and value is not None:
            yield task, (adapter.version[:_VERSION_DIGITS],), value
