"""The table of every instrument this server exposes: name, kind, help, labels and buckets.

Owns the names; the dashboard generator checks its queries against this table and the verbs in
`metrics` fill it. Must not know how or when a value is measured.

Units are seconds, bytes and plain counts. A threshold that an operator wants to hold must be a
bucket boundary, so the latency buckets start at 1 ms (a short T5 decode) and end at 60 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily

LATENCY_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
OBJECTIVE_SECONDS = 1.0  # answers are meant to take no longer; the alert rules' threshold
PHASE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
STEP_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
LOAD_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


@dataclass(frozen=True, slots=True)
class Instrument:
    """One family of series. `buckets` are upper bounds, ascending, for histograms only."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def sample_names(self) -> tuple[str, ...]:
        """Return the names a query may use for this family."""
        if self.kind == "histogram":
            return tuple(self.name + suffix for suffix in ("_bucket", "_count", "_sum"))
        return (self.name,)

    def counter(self, registry: CollectorRegistry) -> Counter:
        """Build the client's counter and register it."""
        return Counter(self.name, self.help, self.labels, registry=registry)

    def gauge(self, registry: CollectorRegistry) -> Gauge:
        """Build the client's gauge and register it."""
        return Gauge(self.name, self.help, self.labels, registry=registry)

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        """Build the client's histogram and register it."""
        return Histogram(self.name, self.help, self.labels, registry=registry, buckets=self.buckets)

    def family(self) -> GaugeMetricFamily:
        """Return an empty gauge family, for values that are read at the time of a scrape."""
        return GaugeMetricFamily(self.name, self.help, labels=self.labels)


_TASK = ("task_id",)

# Requests, per task.
REQUESTS = Instrument(
    "jumplora_requests_total", "counter", "Requests by how they ended.", ("task_id", "outcome")
)
REQUEST_DURATION = Instrument(
    "jumplora_request_duration_seconds",
    "histogram",
    "From arrival to the last token. Without client errors, hang-ups and clients' own deadlines of "
    "less than a second.",
    _TASK,
    LATENCY_SECONDS,
)
REQUEST_QUEUE = Instrument(
    "jumplora_request_queue_seconds",
    "histogram",
    "From arrival to the step that took the request into a batch.",
    _TASK,
    PHASE_SECONDS,
)
REQUEST_ENCODE = Instrument(
    "jumplora_request_encode_seconds",
    "histogram",
    "Time in the step that encoded the prompt.",
    _TASK,
    PHASE_SECONDS,
)
REQUEST_DECODE = Instrument(
    "jumplora_request_decode_seconds",
    "histogram",
    "From the encoded prompt to the last token.",
    _TASK,
    PHASE_SECONDS,
)
FIRST_TOKEN = Instrument(
    "jumplora_time_to_first_token_seconds",
    "histogram",
    "From arrival to the first generated token.",
    _TASK,
    LATENCY_SECONDS,
)
PER_TOKEN = Instrument(
    "jumplora_time_per_output_token_seconds",
    "histogram",
    "Mean time per token after the first, one observation a request.",
    _TASK,
    TOKEN_SECONDS,
)
PROMPT_TOKENS = Instrument(
    "jumplora_prompt_tokens_total", "counter", "Prompt tokens of finished requests.", _TASK
)
GENERATION_TOKENS = Instrument(
    "jumplora_generation_tokens_total", "counter", "Generated tokens of finished requests.", _TASK
)
IN_FLIGHT = Instrument(
    "jumplora_requests_in_flight", "gauge", "Requests accepted and not yet answered.", _TASK
)
CHOICES_MASS = Instrument(
    "jumplora_choices_mass",
    "histogram",
    "How likely an answer was one of the options, 0 to 1, one observation a prompt with choices.",
    _TASK,
    SHARES,
)
ABSTENTIONS = Instrument(
    "jumplora_abstentions_total",
    "counter",
    "Prompts with choices that were answered with none, by what was less than asked.",
    ("task_id", "cause"),
)

# Adapters, per task.
ADAPTER_MEMORY = Instrument(
    "jumplora_adapter_memory_bytes",
    "gauge",
    "Bytes a task's adapter holds in each tier (disk, host, device).",
    ("task_id", "tier"),
)
ADAPTER_NONZEROS = Instrument(
    "jumplora_adapter_nonzeros", "gauge", "Non-zero values of the served adapter.", _TASK
)
ADAPTER_DENSITY = Instrument(
    "jumplora_adapter_density",
    "gauge",
    "Share of its targets' weights that the served adapter may change, 0 to 1; 1 for a LoRA.",
    _TASK,
)
ADAPTER_ACCURACY = Instrument(
    "jumplora_adapter_accuracy",
    "gauge",
    "Exact match of the served version as its maker scored it, 0 to 1, by the score's name.",
    ("task_id", "version", "score"),
)
ADAPTER_CANARY_ACCURACY = Instrument(
    "jumplora_adapter_canary_accuracy",
    "gauge",
    "Share of the served version's canaries that this server found right when it loaded it.",
    ("task_id", "version"),
)
ADAPTER_BACKWARD_TRANSFER = Instrument(
    "jumplora_adapter_backward_transfer",
    "gauge",
    "Change of the earlier tasks' accuracy in the continual run that made the version, -1 to 1.",
    ("task_id", "version"),
)
ADAPTER_OVERLAP_JACCARD = Instrument(
    "jumplora_adapter_overlap_jaccard",
    "gauge",
    "Entries that both tasks' adapters keep over those that either keeps, each pair once.",
    ("task_id", "other_task_id"),
)
ADAPTER_OVERLAP_CHANCE = Instrument(
    "jumplora_adapter_overlap_chance",
    "gauge",
    "The overlap that independent random supports of the same densities would have.",
    ("task_id", "other_task_id"),
)
ADAPTER_INFO = Instrument(
    "jumplora_adapter_info",
    "gauge",
    "1 for the version that is served.",
    ("task_id", "version", "digest"),
)
ADAPTER_STATE = Instrument(
    "jumplora_adapter_state",
    "gauge",
    "1 for the state the task's adapter is in (a number of tasks for task_id _other).",
    ("task_id", "state"),
)
ADAPTER_DEGRADED = Instrument(
    "jumplora_adapter_degraded",
    "gauge",
    "1 while an older version than the published one is served.",
    _TASK,
)
ADAPTER_LOADS = Instrument(
    "jumplora_adapter_loads_total", "counter", "Adapters made resident.", _TASK
)
ADAPTER_LOAD_FAILURES = Instrument(
    "jumplora_adapter_load_failures_total",
    "counter",
    "Adapters that were refused or could not be loaded, by error code.",
    ("task_id", "code"),
)
PUBLISHES_REFUSED = Instrument(
    "jumplora_publishes_refused_total",
    "counter",
    "Publishes over HTTP that were refused, by error code; _unknown stands for tasks that are new.",
    ("task_id", "code"),
)
ADAPTER_SWAPS = Instrument(
    "jumplora_adapter_swaps_total", "counter", "Versions replaced by another while serving.", _TASK
)
ADAPTER_ROLLBACKS = Instrument(
    "jumplora_adapter_rollbacks_total", "counter", "Rollbacks to an earlier version.", _TASK
)
ADAPTER_EVICTIONS = Instrument(
    "jumplora_adapter_evictions_total",
    "counter",
    "Adapters that left memory, by reason.",
    ("task_id", "reason"),
)
VERSION_REQUESTS = Instrument(
    "jumplora_version_requests_total",
    "counter",
    "Requests by version and how they ended, of tasks that have or just had a staged version.",
    ("task_id", "version", "role", "outcome"),
)
VERSION_DURATION = Instrument(
    "jumplora_version_request_duration_seconds",
    "histogram",
    "As jumplora_request_duration_seconds, by version, of tasks that have or just had a staged "
    "version.",
    ("task_id", "version", "role"),
    LATENCY_SECONDS,
)
STAGED_SHARE = Instrument(
    "jumplora_adapter_staged_share",
    "gauge",
    "Share of the task's requests that its staged version gets here, 0 to 1.",
    ("task_id", "version"),
)
STAGE_ENDINGS = Instrument(
    "jumplora_adapter_stage_endings_total",
    "counter",
    "Staged versions that became current or were taken back from here, and by what.",
    ("task_id", "ending", "cause"),
)
ADAPTER_LAST_LOAD = Instrument(
    "jumplora_adapter_last_load_seconds",
    "gauge",
    "Seconds each stage of the task's newest load took.",
    ("task_id", "stage"),
)

# The whole server.
ADAPTER_LOAD = Instrument(
    "jumplora_adapter_load_seconds",
    "histogram",
    "Seconds of each stage of an adapter load, all tasks.",
    ("stage",),
    LOAD_SECONDS,
)
ADMISSION_REJECTIONS = Instrument(
    "jumplora_admission_rejections_total",
    "counter",
    "Requests refused before they were queued, by the limit that was hit.",
    ("reason",),
)
KEY_REJECTIONS = Instrument(
    "jumplora_key_rejections_total",
    "counter",
    "Requests refused because their key had used its quota, by what was used up.",
    ("key", "reason"),
)
WAITING = Instrument("jumplora_requests_waiting", "gauge", "Sequences waiting for a row.")
RUNNING = Instrument("jumplora_requests_running", "gauge", "Sequences that hold a row.")
BATCH_ROWS = Instrument("jumplora_batch_rows", "histogram", "Rows decoded in one step.", (), ROWS)
BATCH_TASKS = Instrument(
    "jumplora_batch_distinct_tasks", "histogram", "Distinct tasks in one step.", (), ROWS
)
ENCODED_TOKENS = Instrument(
    "jumplora_encoded_tokens_total", "counter", "Prompt tokens the engine encoded."
)
STEP = Instrument(
    "jumplora_step_seconds", "histogram", "Engine time of one step.", ("phase",), STEP_SECONDS
)
ROWS_IN_USE = Instrument("jumplora_cache_rows_in_use", "gauge", "Cache rows held by sequences.")
ROWS_TOTAL = Instrument("jumplora_cache_rows", "gauge", "All cache rows.")
BUDGET_USED = Instrument(
    "jumplora_adapter_budget_used_bytes", "gauge", "Bytes of all resident adapters and trunks."
)
BUDGET_LIMIT = Instrument(
    "jumplora_adapter_budget_limit_bytes", "gauge", "Byte budget for resident adapters and trunks."
)
TRUNK_BYTES = Instrument(
    "jumplora_trunk_memory_bytes",
    "gauge",
    "Bytes of all resident trunks: ancestors merged into the backbone's weights, in the budget.",
)
TRUNKS = Instrument("jumplora_trunks", "gauge", "Resident trunks.")
MODEL_BYTES = Instrument("jumplora_model_memory_bytes", "gauge", "Bytes of the backbone's weights.")
HEARTBEAT = Instrument(
    "jumplora_engine_heartbeat_age_seconds",
    "gauge",
    "Seconds since the engine thread last made progress. It also grows while nothing is queued.",
)
THREAD_STUCK = Instrument(
    "jumplora_thread_stuck_seconds",
    "gauge",
    "Seconds that the loader or the watcher stands still with one piece of work; 0 while it moves.",
    ("thread",),
)
STORE_FAULT = Instrument(
    "jumplora_store_fault", "gauge", "1 while the store cannot be read; what is loaded is served."
)
HTTP_REFUSED = Instrument(
    "jumplora_http_refused_total",
    "counter",
    "Requests and connections that the HTTP server refused or gave up: malformed, slow, no room.",
    ("reason",),
)
HTTP_CONNECTIONS = Instrument("jumplora_http_connections", "gauge", "Open connections.")
AUTH_REFUSALS = Instrument(
    "jumplora_auth_refusals_total",
    "counter",
    "Requests whose key, or having none, was not enough: missing, unknown, expired, scope, task.",
    ("reason",),
)
KEYS_FAULT = Instrument(
    "jumplora_keys_fault",
    "gauge",
    "1 while the keys file cannot be used; the keys of before hold.",
)
BUILD_INFO = Instrument(
    "jumplora_build_info", "gauge", "1; labels name the build.", ("version", "torch")
)
EVENT_LOOP_LAG = Instrument(
    "jumplora_event_loop_lag_seconds",
    "histogram",
    "How late the event loop woke up, four times a second: what every answer waits for as well.",
    (),
    STEP_SECONDS,
)
SPANS = Instrument(
    "jumplora_spans_total",
    "counter",
    "Spans of traces: exported, failed (no collector took them) or dropped (too many waited).",
    ("result",),
)
DEVICE_ALLOCATED = Instrument(
    "jumplora_device_memory_allocated_bytes",
    "gauge",
    "Bytes of live tensors on an accelerator.",
    ("device",),
)
DEVICE_RESERVED = Instrument(
    "jumplora_device_memory_reserved_bytes",
    "gauge",
    "Bytes the allocator holds of an accelerator.",
    ("device",),
)

# Names that Kubernetes' inference gateway looks for (Gateway API Inference Extension, proposal
# 003; llm-d-router, docs/plugin-metric-protocol.md); the colon is theirs.
VLLM_WAITING = Instrument("vllm:num_requests_waiting", "gauge", "As jumplora_requests_waiting.")
VLLM_RUNNING = Instrument("vllm:num_requests_running", "gauge", "As jumplora_requests_running.")
VLLM_LORA = Instrument(
    "vllm:lora_requests_info",
    "gauge",
    "Unix time of the last change; the labels list task ids, separated by commas.",
    ("max_lora", "running_lora_adapters", "waiting_lora_adapters"),
)
VLLM_CACHE_USAGE = Instrument(
    "vllm:kv_cache_usage_perc", "gauge", "Share of the cache rows that sequences hold, 0 to 1."
)
VLLM_LORA_LOADED = Instrument(
    "vllm:lora_adapter_loaded",
    "gauge",
    "1 for each task whose adapter answers without a load. The level is gpu on every device: it "
    "says that nothing has to be moved.",
    ("adapter_name", "level", "pinned"),
)
VLLM_LORA_COUNT = Instrument(
    "vllm:num_gpu_loaded_lora_adapters",
    "gauge",
    "Adapters that answer without a load; the label is the backbone's name for clients.",
    ("model_name",),
)
VLLM_LORA_MOST = Instrument(
    "vllm:max_gpu_lora_adapters",
    "gauge",
    "How many adapters fit the memory budget if more are as large as those loaded are on average; "
    "the cache rows until one is loaded.",
    ("model_name",),
)

TABLE: tuple[Instrument, ...] = (
    REQUESTS, REQUEST_DURATION, REQUEST_QUEUE, REQUEST_ENCODE, REQUEST_DECODE, FIRST_TOKEN,
    PER_TOKEN, PROMPT_TOKENS, GENERATION_TOKENS, IN_FLIGHT, CHOICES_MASS, ABSTENTIONS,
    ADAPTER_MEMORY, ADAPTER_NONZEROS, ADAPTER_DENSITY, ADAPTER_ACCURACY, ADAPTER_CANARY_ACCURACY,
    ADAPTER_BACKWARD_TRANSFER, ADAPTER_OVERLAP_JACCARD, ADAPTER_OVERLAP_CHANCE, ADAPTER_INFO,
    ADAPTER_STATE, ADAPTER_DEGRADED, ADAPTER_LOADS, ADAPTER_LOAD_FAILURES, PUBLISHES_REFUSED,
    ADAPTER_SWAPS,
    ADAPTER_ROLLBACKS, ADAPTER_EVICTIONS, ADAPTER_LAST_LOAD,
    VERSION_REQUESTS, VERSION_DURATION, STAGED_SHARE, STAGE_ENDINGS,
    ADAPTER_LOAD, ADMISSION_REJECTIONS, KEY_REJECTIONS, WAITING, RUNNING, BATCH_ROWS, BATCH_TASKS,
    ENCODED_TOKENS, STEP, ROWS_IN_USE, ROWS_TOTAL, BUDGET_USED, BUDGET_LIMIT, TRUNK_BYTES, TRUNKS,
    MODEL_BYTES, HEARTBEAT, BUILD_INFO,
    THREAD_STUCK, STORE_FAULT, HTTP_REFUSED, HTTP_CONNECTIONS, EVENT_LOOP_LAG, SPANS,
    AUTH_REFUSALS, KEYS_FAULT,
    DEVICE_ALLOCATED, DEVICE_RESERVED, VLLM_WAITING, VLLM_RUNNING, VLLM_CACHE_USAGE,
    VLLM_LORA, VLLM_LORA_LOADED, VLLM_LORA_COUNT, VLLM_LORA_MOST,
)  # fmt: skip

# Families whose values `metrics_state` reads at a scrape.
READ_AT_SCRAPE: tuple[Instrument, ...] = (
    IN_FLIGHT, ADAPTER_MEMORY, ADAPTER_NONZEROS, ADAPTER_STATE, ADAPTER_DEGRADED,
    ADAPTER_DENSITY, ADAPTER_ACCURACY, ADAPTER_CANARY_ACCURACY, ADAPTER_BACKWARD_TRANSFER,
    ADAPTER_INFO, ADAPTER_LAST_LOAD, HEARTBEAT, VLLM_LORA,
)  # fmt: skip
