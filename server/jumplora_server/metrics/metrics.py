"""What happened in the server, as verbs; no other module names an instrument.

Owns the mapping from verbs to the instruments of `metrics_table`. Must not know HTTP, queues or
tensors. Every verb may be called from any thread; none waits for anything but a counter's own
lock, except those that are rare (registration, removal, a failed load).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)

from jumplora_server.access.caller import ANYBODY, Caller
from jumplora_server.access.gate import RefusedFor
from jumplora_server.access.quotas import QuotaReason
from jumplora_server.core import Role, Timing
from jumplora_server.http.refusal import Reason
from jumplora_server.metrics import table
from jumplora_server.metrics.device import DeviceMemoryCollector
from jumplora_server.metrics.gateway import ResidencyCollector, Resident
from jumplora_server.metrics.overlap import OverlapCollector, OverlapSnapshot
from jumplora_server.metrics.page import Page
from jumplora_server.metrics.state import (
    AdapterQuality,
    AdapterSnapshot,
    AdapterState,
    LoraRequests,
    Stage,
    StateCollector,
    Tier,
)
from jumplora_server.metrics.tasks import (
    UNKNOWN,
    AbstentionCause,
    EvictionReason,
    Outcome,
    TaskTable,
)
from jumplora_server.metrics.trends import Trends
from jumplora_server.metrics.trouble import TroubleCollector
from jumplora_server.metrics.versions import Counts, VersionTable
from jumplora_server.tracing.tracer import SpanEnd

RejectionReason = Literal["queue_requests", "queue_tokens", "task_quota", "draining"]
Phase = Literal["encode", "decode"]
Ending = Literal["promoted", "aborted"]
EndingCause = Literal["operator", "time", "canary", "errors", "latency", "load"]

# A client that hung up or erred says nothing about how long answers take.
_TIMED_OUTCOMES: frozenset[Outcome] = frozenset({"ok", "error", "timeout"})
# What the alert rules count as the server's failures, too.
_FAILED_OUTCOMES: frozenset[Outcome] = frozenset({"error", "timeout", "shed"})


def _is_timed(outcome: Outcome, timing: Timing | None) -> bool:
    """Whether a request's time counts among the latencies.

    A client's own deadline says how long its answer took at least. Below the objective that says
    nothing, and counting it would make a slow server look fast; from there on it was too slow.
    """
    if outcome == "client_deadline":
        return timing is not None and timing.total > table.OBJECTIVE_SECONDS
    return outcome in _TIMED_OUTCOMES


class Metrics:
    """All instruments of one server, on one registry.

    `task` is a task id, None for the bare backbone. Ids that are not registered count as
    `_unknown`; registered ones beyond `max_task_labels` share `_other`. `clock` is monotonic,
    `wall_clock` gives Unix seconds (only the inference gateway's gauge needs it). A scrape may get
    a page that is `page_seconds` old, or older where making one takes long.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        max_task_labels: int = 200,
        page_seconds: float = 0.0,
    ) -> None:
        self.registry = registry
        self.trends = Trends(clock)
        self._clock = clock
        self._wall_clock = wall_clock
        self._tasks = TaskTable(registry, max_task_labels)
        self._state = StateCollector(self._tasks, clock)
        registry.register(self._state)
        self._versions = VersionTable(registry, clock, self._tasks.label_of)
        self._overlaps = OverlapCollector(self._tasks.label_of, self._state.version_of)
        registry.register(self._overlaps)
        registry.register(DeviceMemoryCollector())
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        rejections = table.ADMISSION_REJECTIONS.counter(registry)
        self._rejections = {r: rejections.labels(r) for r in get_args(RejectionReason)}
        self._key_rejections = table.KEY_REJECTIONS.counter(registry)
        load = table.ADAPTER_LOAD.histogram(registry)
        self._load = {stage: load.labels(stage) for stage in get_args(Stage)}
        step = table.STEP.histogram(registry)
        self._step = {phase: step.labels(phase) for phase in get_args(Phase)}
        self._waiting = table.WAITING.gauge(registry)
        self._running = table.RUNNING.gauge(registry)
        self._vllm_waiting = table.VLLM_WAITING.gauge(registry)
        self._vllm_running = table.VLLM_RUNNING.gauge(registry)
        self._vllm_cache_usage = table.VLLM_CACHE_USAGE.gauge(registry)
        self._batch_rows = table.BATCH_ROWS.histogram(registry)
        self._batch_tasks = table.BATCH_TASKS.histogram(registry)
        self._encoded_tokens = table.ENCODED_TOKENS.counter(registry)
        self._rows_in_use = table.ROWS_IN_USE.gauge(registry)
        self._rows_total = table.ROWS_TOTAL.gauge(registry)
        self._budget_used = table.BUDGET_USED.gauge(registry)
        self._budget_limit = table.BUDGET_LIMIT.gauge(registry)
        self._trunk_bytes = table.TRUNK_BYTES.gauge(registry)
        self._trunks = table.TRUNKS.gauge(registry)
        self._model_bytes = table.MODEL_BYTES.gauge(registry)
        refused = table.HTTP_REFUSED.counter(registry)
        self._http_refused = {reason: refused.labels(reason) for reason in get_args(Reason)}
        self._http_connections = table.HTTP_CONNECTIONS.gauge(registry)
        self._event_loop_lag = table.EVENT_LOOP_LAG.histogram(registry)
        spans = table.SPANS.counter(registry)
        self._spans = {end: spans.labels(end) for end in get_args(SpanEnd)}
        auth = table.AUTH_REFUSALS.counter(registry)
        self._auth_refused = {reason: auth.labels(reason) for reason in get_args(RefusedFor)}
        self._keys_fault = table.KEYS_FAULT.gauge(registry)
        self._build_info = table.BUILD_INFO.gauge(registry)
        self._page = Page(registry, clock, page_seconds)

    # Requests

    def request_finished(
        self,
        task: str | None,
        outcome: Outcome,
        timing: Timing | None,
        prompt_tokens: int = 0,
        generated_tokens: int = 0,
    ) -> None:
        """Count one request that ended, and its times if the server is to answer for them."""
        series = self._tasks.of(task)
        series.requests[outcome].inc()
        if prompt_tokens:
            series.prompt_tokens.inc(prompt_tokens)
        if generated_tokens:
            series.generation_tokens.inc(generated_tokens)
        timed = timing if _is_timed(outcome, timing) else None
        if task is not None and series.label != UNKNOWN:
            seconds = None if timed is None else timed.total
            self.trends.add(task, seconds, is_failed=outcome in _FAILED_OUTCOMES)
        if timed is None:
            return
        series.duration.observe(timed.total)
        series.queue.observe(timed.queue)
        if timed.first_token is None:  # it never got into a batch
            return
        series.encode.observe(timed.encode)
        series.decode.observe(timed.decode)
        series.first_token.observe(timed.first_token)
        if generated_tokens > 1:
            after_first = max(0.0, timed.total - timed.first_token)
            series.per_token.observe(after_first / (generated_tokens - 1))

    def version_finished(
        self,
        task: str,
        version: str,
        role: Role,
        outcome: Outcome,
        timing: Timing | None,
        *,
        is_judged: bool,
    ) -> None:
        """Count it for the version that answered, too, where the task has a staged one; for the
        comparison of both where it `is_judged`."""
        self._versions.finished(task, version, role, outcome, timing, is_judged=is_judged)

    def chosen(self, task: str | None, mass: float, abstained: AbstentionCause | None) -> None:
        """Note how likely all options of a prompt were together, and why none is its answer."""
        series = self._tasks.choices_of(task)
        series.mass.observe(mass)
        if abstained is not None:
            series.abstentions[abstained].inc()

    def in_flight(self, task: str | None, delta: int) -> None:
        """Add `delta` (1 at acceptance, -1 at the answer) to the task's requests in flight."""
        self._tasks.add_in_flight(task, delta)

    def queue(self, waiting: int, running: int) -> None:
        """Set how many sequences wait for a row and how many hold one."""
        self._waiting.set(waiting)
        self._vllm_waiting.set(waiting)
        self._running.set(running)
        self._vllm_running.set(running)

    def rejected(self, reason: RejectionReason) -> None:
        """Count a request that was refused before it was queued."""
        self._rejections[reason].inc()

    def key_rejected(self, key: str, reason: QuotaReason) -> None:
        """Count a request that was refused because its key had used its quota."""
        self._key_rejections.labels(key, reason).inc()

    def key_removed(self, key: str) -> None:
        """Drop the series of a key that is there no longer."""
        self._key_rejections.remove_by_labels({"key": key})

    def http_refused(self, reason: Reason) -> None:
        """Count a request or a connection that the HTTP server refused or gave up."""
        self._http_refused[reason].inc()

    def http_connections(self, count: int) -> None:
        """Set how many connections are open."""
        self._http_connections.set(count)

    def event_loop_lag(self, seconds: float) -> None:
        """Record how late the event loop woke up."""
        self._event_loop_lag.observe(seconds)

    def spans(self, end: SpanEnd, count: int) -> None:
        """Count spans of traces by what became of them."""
        self._spans[end].inc(count)

    def auth_refused(self, reason: RefusedFor) -> None:
        """Count a request whose key, or having none, was not enough."""
        self._auth_refused[reason].inc()

    def keys_fault(self, look: Callable[[], bool]) -> None:
        """Show at a scrape whether `look` finds the keys file at fault. To be called once."""
        self._keys_fault.set_function(lambda: float(look()))

    # The engine

    def batch(self, rows: int, distinct_tasks: int, encoded_tokens: int) -> None:
        """Record what one step was made of."""
        self._batch_rows.observe(rows)
        self._batch_tasks.observe(distinct_tasks)
        if encoded_tokens:
            self._encoded_tokens.inc(encoded_tokens)

    def step_seconds(self, phase: Phase, seconds: float) -> None:
        """Record the time one phase of a step took."""
        self._step[phase].observe(seconds)

    def rows_in_use(self, n: int, total: int) -> None:
        """Set how many of the cache rows are held."""
        self._rows_in_use.set(n)
        self._rows_total.set(total)
        self._vllm_cache_usage.set(n / total)

    def heartbeat(self) -> None:
        """Note that the engine thread made progress."""
        self._state.last_beat = self._clock()

    def trouble(
        self, stuck_seconds: Callable[[], Mapping[str, float]], store_fault: Callable[[], bool]
    ) -> None:
        """Show what both say at a scrape: seconds that each thread stands still (0: it moves), and
        whether the store cannot be read. To be called once."""
        self.registry.register(TroubleCollector(stuck_seconds, store_fault))

    def residents(
        self, model: str, rows: int, look: Callable[[], Iterable[Resident]], free: Callable[[], int]
    ) -> None:
        """Show the inference gateway, at a scrape, which adapters `look` finds in memory, and how
        many more fit into `free` bytes. To be called once.

        `model` is the backbone's name for clients, `rows` are all cache rows.
        """
        self.registry.register(ResidencyCollector(model, rows, look, free))

    def model_bytes(self, n: int) -> None:
        """Set the bytes of the backbone's weights."""
        self._model_bytes.set(n)

    def build_info(self, version: str, torch_version: str) -> None:
        """Name the build."""
        self._build_info.labels(version, torch_version).set(1)

    # Adapters

    def register(self, task: str) -> None:
        """Make `task` a label value, with all its series at zero."""
        self._tasks.register(task)

    def adapter_state(
        self,
        task: str,
        version: str | None,
        state: AdapterState,
        *,
        bytes_by_tier: Mapping[Tier, int],
        nonzeros: int,
        density: float,
        degraded: bool,
        quality: AdapterQuality = AdapterQuality(),
    ) -> None:
        """Replace what is known of the task's adapter; registers the task.

        `version` is the digest that is served, None where none is.
        """
        self._tasks.register(task)
        snapshot = AdapterSnapshot(
            version, state, dict(bytes_by_tier), nonzeros, density, degraded, quality
        )
        self._state.set_adapter(task, snapshot)

    def adapter_overlaps(self, overlaps: Iterable[OverlapSnapshot]) -> None:
        """Replace what is known of how adapters overlap."""
        self._overlaps.set(overlaps)

    def adapter_loaded(self, task: str, seconds_by_stage: Mapping[Stage, float]) -> None:
        """Count a version that became resident and how long each stage of it took."""
        for stage, seconds in seconds_by_stage.items():
            self._load[stage].observe(seconds)
        series = self._tasks.adapter_of(task)
        if series is not None:
            series.loads.inc()
            self._state.set_load(task, seconds_by_stage)

    def adapter_load_failed(self, task: str, code: str) -> None:
        """Count a version that was refused or could not be loaded; `code` is the error's code."""
        self._tasks.load_failed(task, code)

    def publish_refused(self, task: str | None, code: str) -> None:
        """Count a publish over HTTP that was refused.

        `task` is None where it was not registered before: a refused publish leaves no task behind,
        and the series of a task go with it.
        """
        self._tasks.publish_refused(task, code)

    def swapped(self, task: str) -> None:
        """Count a version that took the place of another."""
        series = self._tasks.adapter_of(task)
        if series is not None:
            series.swaps.inc()

    def rolled_back(self, task: str) -> None:
        """Count a return to an earlier version."""
        series = self._tasks.adapter_of(task)
        if series is not None:
            series.rollbacks.inc()

    def staged(self, task: str, version: str | None, share: float) -> None:
        """Set which version of a task is staged, None for none, and which share it gets here."""
        self._versions.stage(task, version, share)

    def stage_ended(self, task: str, ending: Ending, cause: EndingCause) -> None:
        """Count a staged version that this server promoted or took back."""
        self._versions.ended(task, ending, cause)

    def counts_of(self, task: str, version: str) -> Counts:
        """The requests of a version since its task's staged one was staged."""
        return self._versions.counts(task, version)

    def evicted(self, task: str, reason: EvictionReason) -> None:
        """Count an adapter that left memory."""
        series = self._tasks.adapter_of(task)
        if series is not None:
            series.evictions[reason].inc()

    def task_removed(self, task: str) -> None:
        """Drop all series of a task. What still ends of it counts as `_unknown`."""
        self._tasks.remove(task)
        self._state.forget(task)
        self._versions.forget(task)
        self.trends.forget(task)

    def budget(self, used: int, limit: int) -> None:
        """Set the bytes of all resident adapters and trunks, and their limit."""
        self._budget_used.set(used)
        self._budget_limit.set(limit)

    def trunks(self, count: int, nbytes: int) -> None:
        """Set how many trunks are resident, and their bytes, which `budget` counts as well."""
        self._trunks.set(count)
        self._trunk_bytes.set(nbytes)

    def lora_requests(self, running: Iterable[str], waiting: Iterable[str], max_slots: int) -> None:
        """Set the task ids the inference gateway routes by."""
        self._state.lora = LoraRequests(
            tuple(sorted(running)), tuple(sorted(waiting)), max_slots, self._wall_clock()
        )

    # Reading

    def render(self, caller: Caller = ANYBODY) -> tuple[bytes, str]:
        """Return the page for a scrape in Prometheus' text format, and its content type.

        To a caller of some tasks it has the series of these and of the whole server.
        """
        return self._page.render(caller)
