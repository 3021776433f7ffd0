"""Panels about the engine, the process and its memory, by server."""

from __future__ import annotations

from deploy.grafana.panel import Panel, Query
from deploy.grafana.promql import OURS, SERVERS, WINDOW, mean, of_servers, quantile, rate

WAITING_AND_RUNNING = Panel(
    "Waiting and running",
    "timeseries",
    "short",
    "jumplora_requests_waiting and jumplora_requests_running: sequences without and with a row. "
    "Waiting is the signal to scale on.",
    (
        Query(of_servers("sum", "jumplora_requests_waiting", "instance"), "{{instance}} waiting"),
        Query(of_servers("sum", "jumplora_requests_running", "instance"), "{{instance}} running"),
    ),
    no_value="No server",
    alerts=("JumpLoRARefusing",),
)
ROWS_AND_TASKS = Panel(
    "Rows and tasks in a step",
    "timeseries",
    "short",
    "Means of jumplora_batch_rows and jumplora_batch_distinct_tasks: more than one task means that "
    "tasks share a batch.",
    (
        Query(mean("jumplora_batch_rows"), "rows"),
        Query(mean("jumplora_batch_distinct_tasks"), "tasks"),
    ),
)
P95_STEP = Panel(
    "p95 step",
    "timeseries",
    "s",
    "jumplora_step_seconds by phase: encoding prompts, and one token for every row.",
    (
        Query(
            "histogram_quantile(0.95, sum by (le, phase) "
            f"(rate(jumplora_step_seconds_bucket{{{SERVERS}}}{WINDOW})))",
            "{{phase}}",
        ),
    ),
)
CACHE_ROWS = Panel(
    "Cache rows",
    "timeseries",
    "short",
    "jumplora_cache_rows_in_use against jumplora_cache_rows: sequences computed at once.",
    (
        Query(of_servers("sum", "jumplora_cache_rows_in_use", "instance"), "{{instance}} in use"),
        Query(of_servers("sum", "jumplora_cache_rows", "instance"), "{{instance}} all"),
    ),
    no_value="No server",
)
ENCODED = Panel(
    "Prompt tokens encoded",
    "timeseries",
    "short",
    "jumplora_encoded_tokens_total: tokens a second, at the time of the computation.",
    (Query(rate("jumplora_encoded_tokens_total", "instance", SERVERS), "{{instance}}"),),
    no_value="No server",
)
HEARTBEAT = Panel(
    "Heartbeat and processor",
    "timeseries",
    "short",
    "jumplora_engine_heartbeat_age_seconds: seconds since the engine's last progress; it also "
    "grows while nothing is queued. process_cpu_seconds_total: cores in use.",
    (
        Query(
            of_servers("max", "jumplora_engine_heartbeat_age_seconds", "instance"),
            "{{instance}} heartbeat age (s)",
        ),
        Query(
            f"sum by (instance) (rate(process_cpu_seconds_total{{{SERVERS}}}{WINDOW}) {OURS})",
            "{{instance}} cores",
        ),
    ),
    no_value="No server",
    alerts=("JumpLoRAEngineStuck",),
)
STORE = Panel(
    "Store and its threads",
    "timeseries",
    "s",
    "jumplora_thread_stuck_seconds: for how long the loader or the watcher stands still, as with a "
    "slow disk. jumplora_store_fault: 1 while the store cannot be read.",
    (
        Query(
            of_servers("max", "jumplora_thread_stuck_seconds", "instance, thread"),
            "{{instance}} {{thread}}",
        ),
        Query(of_servers("max", "jumplora_store_fault", "instance"), "{{instance}} store fault"),
    ),
    no_value="No server",
    alerts=("JumpLoRAStoreFault",),
)
BUDGET = Panel(
    "Budget",
    "timeseries",
    "bytes",
    "jumplora_adapter_budget_used_bytes of all resident adapters and trunks, against "
    "jumplora_adapter_budget_limit_bytes. At the limit the least used are evicted; only trunks "
    "that cannot go may pass it. jumplora_trunk_memory_bytes is the trunks' part.",
    (
        Query(
            of_servers("sum", "jumplora_adapter_budget_used_bytes", "instance"),
            "{{instance}} used",
        ),
        Query(
            of_servers("sum", "jumplora_adapter_budget_limit_bytes", "instance"),
            "{{instance}} limit",
        ),
        Query(of_servers("sum", "jumplora_trunk_memory_bytes", "instance"), "{{instance}} trunks"),
    ),
    width=12,
    no_value="No server",
    alerts=("JumpLoRAAdapterThrash",),
)
PROCESS = Panel(
    "Process and backbone",
    "timeseries",
    "bytes",
    "process_resident_memory_bytes of the servers and, of it, jumplora_model_memory_bytes: the "
    "backbone's weights.",
    (
        Query(
            f"sum by (instance) (process_resident_memory_bytes{{{SERVERS}}} {OURS})",
            "{{instance}} process",
        ),
        Query(
            of_servers("sum", "jumplora_model_memory_bytes", "instance"), "{{instance}} backbone"
        ),
    ),
    width=12,
    no_value="No server",
)
ACCELERATOR = Panel(
    "Accelerator memory",
    "timeseries",
    "bytes",
    "jumplora_device_memory_allocated_bytes and jumplora_device_memory_reserved_bytes of the "
    "allocator. Absent on a server that computes on the CPU.",
    (
        Query(
            of_servers("sum", "jumplora_device_memory_allocated_bytes", "instance, device"),
            "{{instance}} {{device}} allocated",
        ),
        Query(
            of_servers("sum", "jumplora_device_memory_reserved_bytes", "instance, device"),
            "{{instance}} {{device}} reserved",
        ),
    ),
    width=12,
    no_value="No accelerator",
    needs="accelerator",
)
BUILDS = Panel(
    "Servers",
    "table",
    "short",
    "jumplora_build_info: which build runs where.",
    (
        Query(
            of_servers("count", "jumplora_build_info", "job, instance, version, torch"),
            "Servers",
        ),
    ),
    width=12,
    height=6,
    no_value="No server",
)
_LAG = "jumplora_event_loop_lag_seconds"
LOOP_LAG = Panel(
    "Event loop lag",
    "timeseries",
    "s",
    f"{_LAG}: how late the loop that answers HTTP wakes up, one time in a hundred, and on average. "
    "A mean above the other says that it stood still for long: rare, but all answers waited.",
    (
        Query(quantile(0.99, _LAG, "instance", SERVERS), "{{instance}} p99"),
        Query(mean(_LAG, "instance"), "{{instance}} mean"),
    ),
    no_value="No server",
    alerts=("JumpLoRAEventLoopLag",),
)
