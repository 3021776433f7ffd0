"""Rows about what is loaded and computed: memory and versions by task, and the engine."""

from __future__ import annotations

from deploy.grafana.panel import Panel, Query, Row
from deploy.grafana.promql import OURS, RESIDENT, SELECTED, WINDOW, mean, rate

MEMORY = Row(
    "Memory by task",
    (
        Panel(
            "Adapters resident",
            "timeseries",
            "bytes",
            "jumplora_adapter_memory_bytes: what a task's adapter holds in host and device memory. "
            "Ancestors that several tasks share are counted once in the budget.",
            (Query(f"sum by (task_id, tier) ({RESIDENT})", "{{task_id}} {{tier}}"),),
            width=12,
            by_task="by task",
            stack="stacked",
            no_value="No adapters",
        ),
        Panel(
            "Budget",
            "timeseries",
            "bytes",
            "jumplora_adapter_budget_used_bytes of all resident adapters and trunks, against "
            "jumplora_adapter_budget_limit_bytes. At the limit the least used are evicted; only "
            "trunks that cannot go may pass it. jumplora_trunk_memory_bytes is the trunks' part.",
            (
                Query(
                    "sum by (instance) (jumplora_adapter_budget_used_bytes)", "{{instance}} used"
                ),
                Query(
                    "sum by (instance) (jumplora_adapter_budget_limit_bytes)", "{{instance}} limit"
                ),
                Query("sum by (instance) (jumplora_trunk_memory_bytes)", "{{instance}} trunks"),
            ),
            width=12,
            no_value="No adapters",
        ),
        Panel(
            "Files on disk",
            "timeseries",
            "bytes",
            "jumplora_adapter_memory_bytes, tier disk: the file of the served version.",
            (
                Query(
                    f'max by (task_id) (jumplora_adapter_memory_bytes{{{SELECTED}, tier="disk"}})',
                    "{{task_id}}",
                ),
            ),
            by_task="by task",
            no_value="No adapters",
        ),
        Panel(
            "Non-zeros",
            "timeseries",
            "short",
            "jumplora_adapter_nonzeros: values of the served version that are not zero.",
            (Query(f"max by (task_id) (jumplora_adapter_nonzeros{{{SELECTED}}})", "{{task_id}}"),),
            by_task="by task",
            no_value="No adapters",
        ),
        Panel(
            "Density",
            "timeseries",
            "percentunit",
            "jumplora_adapter_density: non-zeros over all weights of the target modules.",
            (Query(f"max by (task_id) (jumplora_adapter_density{{{SELECTED}}})", "{{task_id}}"),),
            by_task="by task",
            no_value="No adapters",
        ),
        Panel(
            "Process and backbone",
            "timeseries",
            "bytes",
            "process_resident_memory_bytes of the servers and, of it, "
            "jumplora_model_memory_bytes: the backbone's weights.",
            (
                Query(
                    f"sum by (instance) (process_resident_memory_bytes {OURS})",
                    "{{instance}} process",
                ),
                Query("sum by (instance) (jumplora_model_memory_bytes)", "{{instance}} backbone"),
            ),
            width=12,
            no_value="No server",
        ),
        Panel(
            "Accelerator memory",
            "timeseries",
            "bytes",
            "jumplora_device_memory_allocated_bytes and jumplora_device_memory_reserved_bytes of "
            "the allocator. Absent on a server that computes on the CPU.",
            (
                Query(
                    "sum by (instance, device) (jumplora_device_memory_allocated_bytes)",
                    "{{instance}} {{device}} allocated",
                ),
                Query(
                    "sum by (instance, device) (jumplora_device_memory_reserved_bytes)",
                    "{{instance}} {{device}} reserved",
                ),
            ),
            width=12,
            no_value="No accelerator",
            needs="accelerator",
        ),
    ),
)

ADAPTERS = Row(
    "Adapters",
    (
        Panel(
            "Versions",
            "table",
            "short",
            "jumplora_adapter_info: the version each task serves, and on how many servers. Two "
            "lines of one task mean that replicas differ.",
            (
                Query(
                    f"count by (task_id, version, digest) (jumplora_adapter_info{{{SELECTED}}})",
                    "Servers",
                ),
            ),
            width=12,
            by_task="by task",
            no_value="No adapters",
        ),
        Panel(
            "Degraded",
            "timeseries",
            "short",
            "jumplora_adapter_degraded: 1 while a task serves an older version than the published "
            "one (alert JumpLoRATaskDegraded).",
            (Query(f"max by (task_id) (jumplora_adapter_degraded{{{SELECTED}}})", "{{task_id}}"),),
            width=12,
            by_task="by task",
            no_value="No adapters",
        ),
        Panel(
            "States",
            "timeseries",
            "short",
            "jumplora_adapter_state: how many tasks are COLD, LOADING, READY, DRAINING, FAILED.",
            (Query(f"sum by (state) (jumplora_adapter_state{{{SELECTED}}})", "{{state}}"),),
            stack="stacked",
            no_value="No adapters",
        ),
        Panel(
            "Loads and swaps",
            "timeseries",
            "short",
            "jumplora_adapter_loads_total, jumplora_adapter_swaps_total and "
            "jumplora_adapter_rollbacks_total: totals since the server's start.",
            tuple(
                Query(
                    f"sum by (task_id) (jumplora_adapter_{event}_total{{{SELECTED}}})",
                    "{{task_id}} " + event,
                )
                for event in ("loads", "swaps", "rollbacks")
            ),
            by_task="by task",
            no_value="No adapters",
        ),
        Panel(
            "Evictions",
            "timeseries",
            "short",
            "jumplora_adapter_evictions_total since the server's start: lru (pushed out by the "
            "budget), replaced (by a newer version), unload (on request).",
            (
                Query(
                    f"sum by (task_id, reason) (jumplora_adapter_evictions_total{{{SELECTED}}})",
                    "{{task_id}} {{reason}}",
                ),
            ),
            by_task="by task",
            no_value="No adapters",
        ),
        Panel(
            "Load failures",
            "timeseries",
            "short",
            "jumplora_adapter_load_failures_total since the server's start, by the code of the "
            "refusal. Totals, not rates: a task's first failure makes the series.",
            (
                Query(
                    f"sum by (task_id, code) (jumplora_adapter_load_failures_total{{{SELECTED}}})",
                    "{{task_id}} {{code}}",
                ),
            ),
            no_value="No failures",
        ),
        Panel(
            "Newest load",
            "timeseries",
            "s",
            "jumplora_adapter_last_load_seconds: stages (read, fold, pack, warmup, "
            "canaries) of each task's newest load.",
            (
                Query(
                    f"max by (task_id, stage) (jumplora_adapter_last_load_seconds{{{SELECTED}}})",
                    "{{task_id}} {{stage}}",
                ),
            ),
            by_task="by task",
            no_value="No loads",
        ),
        Panel(
            "Mean load",
            "timeseries",
            "s",
            "jumplora_adapter_load_seconds: mean of all loads since the server's start, by stage.",
            (
                Query(
                    "sum by (stage) (jumplora_adapter_load_seconds_sum) / "
                    "(sum by (stage) (jumplora_adapter_load_seconds_count) > 0)",
                    "{{stage}}",
                ),
            ),
            no_value="No loads",
        ),
    ),
)

ENGINE = Row(
    "Engine",
    (
        Panel(
            "Store and its threads",
            "timeseries",
            "s",
            "jumplora_thread_stuck_seconds: for how long the loader or the watcher stands still, "
            "as with a slow disk. jumplora_store_fault: 1 while the store cannot be read.",
            (
                Query(
                    "max by (instance, thread) (jumplora_thread_stuck_seconds)",
                    "{{instance}} {{thread}}",
                ),
                Query("max by (instance) (jumplora_store_fault)", "{{instance}} store fault"),
            ),
            no_value="No server",
        ),
        Panel(
            "Rows and tasks in a step",
            "timeseries",
            "short",
            "Means of jumplora_batch_rows and jumplora_batch_distinct_tasks: more than one task "
            "means that tasks share a batch.",
            (
                Query(mean("jumplora_batch_rows"), "rows"),
                Query(mean("jumplora_batch_distinct_tasks"), "tasks"),
            ),
        ),
        Panel(
            "p95 step",
            "timeseries",
            "s",
            "jumplora_step_seconds by phase: encoding prompts, and one token for every row.",
            (
                Query(
                    f"histogram_quantile(0.95, sum by (le, phase) "
                    f"(rate(jumplora_step_seconds_bucket{WINDOW})))",
                    "{{phase}}",
                ),
            ),
        ),
        Panel(
            "Cache rows",
            "timeseries",
            "short",
            "jumplora_cache_rows_in_use against jumplora_cache_rows: sequences computed at once.",
            (
                Query("sum by (instance) (jumplora_cache_rows_in_use)", "{{instance}} in use"),
                Query("sum by (instance) (jumplora_cache_rows)", "{{instance}} all"),
            ),
            no_value="No server",
        ),
        Panel(
            "Waiting and running",
            "timeseries",
            "short",
            "jumplora_requests_waiting and jumplora_requests_running: sequences without and with "
            "a row. Waiting is the signal to scale on.",
            (
                Query("sum by (instance) (jumplora_requests_waiting)", "{{instance}} waiting"),
                Query("sum by (instance) (jumplora_requests_running)", "{{instance}} running"),
            ),
            no_value="No server",
        ),
        Panel(
            "Prompt tokens encoded",
            "timeseries",
            "short",
            "jumplora_encoded_tokens_total: tokens a second, at the time of the computation.",
            (Query(rate("jumplora_encoded_tokens_total", "instance", ""), "{{instance}}"),),
        ),
        Panel(
            "Heartbeat and processor",
            "timeseries",
            "short",
            "jumplora_engine_heartbeat_age_seconds: seconds since the engine's last progress; it "
            "also grows while nothing is queued. process_cpu_seconds_total: cores in use.",
            (
                Query(
                    "max by (instance) (jumplora_engine_heartbeat_age_seconds)",
                    "{{instance}} heartbeat age (s)",
                ),
                Query(
                    f"sum by (instance) (rate(process_cpu_seconds_total{WINDOW}) {OURS})",
                    "{{instance}} cores",
                ),
            ),
            no_value="No server",
        ),
    ),
)
