"""Panels about what is loaded: memory, versions, loads and their faults, by task."""

from __future__ import annotations

from deploy.grafana.panel import Panel, Query
from deploy.grafana.promql import (
    RESIDENT,
    SELECTED,
    SERVERS,
    of_tasks,
    quantile,
    rate,
    share,
)

RESIDENT_BY_TASK = Panel(
    "Adapters resident by task",
    "timeseries",
    "bytes",
    "jumplora_adapter_memory_bytes: what a task's adapter holds in host and device memory. "
    "Ancestors that several tasks share are counted once in the budget.",
    (Query(f"sum by (task_id, tier) ({RESIDENT})", "{{task_id}} {{tier}}"),),
    width=12,
    by_task="by task",
    stack="stacked",
    no_value="No adapters",
)
FILES = Panel(
    "Files on disk",
    "timeseries",
    "bytes",
    "jumplora_adapter_memory_bytes, tier disk: the file of the served version.",
    (
        Query(
            of_tasks("max", "jumplora_adapter_memory_bytes", "task_id", 'tier="disk"'),
            "{{task_id}}",
        ),
    ),
    width=12,
    by_task="by task",
    no_value="No adapters",
)
NON_ZEROS = Panel(
    "Non-zeros",
    "timeseries",
    "short",
    "jumplora_adapter_nonzeros: values of the served version that are not zero.",
    (Query(of_tasks("max", "jumplora_adapter_nonzeros"), "{{task_id}}"),),
    width=12,
    by_task="by task",
    no_value="No adapters",
)
DENSITY = Panel(
    "Density by task",
    "timeseries",
    "percentunit",
    "jumplora_adapter_density: non-zeros over all weights of the target modules.",
    (Query(of_tasks("max", "jumplora_adapter_density"), "{{task_id}}"),),
    width=12,
    by_task="by task",
    no_value="No adapters",
)

VERSIONS = Panel(
    "Versions",
    "table",
    "short",
    "jumplora_adapter_info: the version each task serves, and on how many servers. Two lines of "
    "one task mean that replicas differ.",
    (Query(of_tasks("count", "jumplora_adapter_info", "task_id, version, digest"), "Servers"),),
    width=12,
    by_task="by task",
    no_value="No adapters",
)
DEGRADED = Panel(
    "Degraded",
    "timeseries",
    "short",
    "jumplora_adapter_degraded: 1 while a task serves an older version than the published one.",
    (Query(of_tasks("max", "jumplora_adapter_degraded"), "{{task_id}}"),),
    width=12,
    by_task="by task",
    no_value="No adapters",
    alerts=("JumpLoRATaskDegraded",),
)
STATES = Panel(
    "States",
    "timeseries",
    "short",
    "jumplora_adapter_state: how many tasks are COLD, LOADING, READY, DRAINING, FAILED.",
    (Query(of_tasks("sum", "jumplora_adapter_state", "state"), "{{state}}"),),
    stack="stacked",
    no_value="No adapters",
)
LOADS = Panel(
    "Loads and swaps",
    "timeseries",
    "short",
    "jumplora_adapter_loads_total, jumplora_adapter_swaps_total and "
    "jumplora_adapter_rollbacks_total: totals since the server's start.",
    tuple(
        Query(of_tasks("sum", f"jumplora_adapter_{event}_total"), "{{task_id}} " + event)
        for event in ("loads", "swaps", "rollbacks")
    ),
    by_task="by task",
    no_value="No adapters",
)
EVICTIONS = Panel(
    "Evictions",
    "timeseries",
    "short",
    "jumplora_adapter_evictions_total since the server's start: lru (pushed out by the budget), "
    "replaced (by a newer version), unload (on request).",
    (
        Query(
            of_tasks("sum", "jumplora_adapter_evictions_total", "task_id, reason"),
            "{{task_id}} {{reason}}",
        ),
    ),
    by_task="by task",
    no_value="No adapters",
    alerts=("JumpLoRAAdapterThrash",),
)
FAILURES = Panel(
    "Load failures",
    "timeseries",
    "short",
    "jumplora_adapter_load_failures_total since the server's start, by the code of the refusal. "
    "Totals, not rates: a task's first failure makes the series.",
    (
        Query(
            of_tasks("sum", "jumplora_adapter_load_failures_total", "task_id, code"),
            "{{task_id}} {{code}}",
        ),
    ),
    no_value="No failures",
    alerts=("JumpLoRATaskDegraded", "JumpLoRACanariesFailed"),
)
NEWEST_LOAD = Panel(
    "Newest load",
    "timeseries",
    "s",
    "jumplora_adapter_last_load_seconds: stages (read, fold, pack, warmup, canaries) of each "
    "task's newest load.",
    (
        Query(
            of_tasks("max", "jumplora_adapter_last_load_seconds", "task_id, stage"),
            "{{task_id}} {{stage}}",
        ),
    ),
    by_task="by task",
    no_value="No loads",
)
MEAN_LOAD = Panel(
    "Mean load",
    "timeseries",
    "s",
    "jumplora_adapter_load_seconds: mean of all loads since the server's start, by stage.",
    (
        Query(
            f"sum by (stage) (jumplora_adapter_load_seconds_sum{{{SERVERS}}}) / "
            f"(sum by (stage) (jumplora_adapter_load_seconds_count{{{SERVERS}}}) > 0)",
            "{{stage}}",
        ),
    ),
    no_value="No loads",
)
PUBLISHED = Panel(
    "Swaps and rollbacks",
    "timeseries",
    "short",
    "jumplora_adapter_swaps_total and jumplora_adapter_rollbacks_total: how many there were around "
    "each moment. The marks over the other graphs are the same.",
    (
        Query(
            f"sum by (task_id) (increase(jumplora_adapter_swaps_total{{{SELECTED}}}"
            "[$__rate_interval]))",
            "{{task_id}} swaps",
        ),
        Query(
            f"sum by (task_id) (increase(jumplora_adapter_rollbacks_total{{{SELECTED}}}"
            "[$__rate_interval]))",
            "{{task_id}} rollbacks",
        ),
    ),
    by_task="by task",
    no_value="No adapters",
)
REFUSED_PUBLISHES = Panel(
    "Refused publishes",
    "timeseries",
    "short",
    "jumplora_publishes_refused_total since the server's start: publishes over HTTP that were "
    "refused, by code, those of new tasks too.",
    (
        Query(
            of_tasks("sum", "jumplora_publishes_refused_total", "task_id, code"),
            "{{task_id}} {{code}}",
        ),
    ),
    no_value="No refusals",
    alerts=("JumpLoRAPublishRefused", "JumpLoRACanariesFailed", "JumpLoRAStoreRefuses"),
)
STAGED_SHARE = Panel(
    "Staged share",
    "timeseries",
    "percentunit",
    "jumplora_adapter_staged_share: which share of a task's requests its staged version answers.",
    (
        Query(
            of_tasks("max", "jumplora_adapter_staged_share", "task_id, version"),
            "{{task_id}} {{version}}",
        ),
    ),
    no_value="Nothing staged",
)
STAGE_ENDINGS = Panel(
    "Endings of stages",
    "timeseries",
    "short",
    "jumplora_adapter_stage_endings_total since the server's start: promoted or aborted, and by "
    "what (operator, time, canary, errors, latency, load). All but the operator's raise an alert.",
    (
        Query(
            of_tasks("sum", "jumplora_adapter_stage_endings_total", "task_id, ending, cause"),
            "{{task_id}} {{ending}} {{cause}}",
        ),
    ),
    no_value="No endings",
    alerts=("JumpLoRAStageAborted",),
)
_FAILED = f'{SELECTED}, outcome=~"error|timeout|shed"'
_OWED = f'{SELECTED}, outcome!~"client_.*"'
VERSION_REQUESTS = Panel(
    "Requests by version",
    "timeseries",
    "reqps",
    "jumplora_version_requests_total: of tasks that have or just had a staged version, by role.",
    (
        Query(
            rate("jumplora_version_requests_total", "task_id, version, role"),
            "{{task_id}} {{role}} {{version}}",
        ),
    ),
    no_value="Nothing staged",
)
VERSION_FAILED = Panel(
    "Failed by version",
    "timeseries",
    "percentunit",
    "jumplora_version_requests_total: share that the server failed (error, timeout, shed), staged "
    "beside current.",
    (
        Query(
            share(
                rate("jumplora_version_requests_total", "task_id, version, role", _FAILED),
                rate("jumplora_version_requests_total", "task_id, version, role", _OWED),
            ),
            "{{task_id}} {{role}} {{version}}",
        ),
    ),
    no_value="Nothing staged",
)
VERSION_LATENCY = Panel(
    "p95 request by version",
    "timeseries",
    "s",
    "jumplora_version_request_duration_seconds: one in twenty takes longer, staged beside current.",
    (
        Query(
            quantile(0.95, "jumplora_version_request_duration_seconds", "task_id, version, role"),
            "{{task_id}} {{role}} {{version}}",
        ),
    ),
    no_value="Nothing staged",
)
