"""The panels of one number about the engine and the process, as in `stats`."""

from __future__ import annotations

from deploy.grafana.panel import Said, Thresholds, stat
from deploy.grafana.promql import OURS, SERVERS, of_servers, quantile
from deploy.grafana.stats import NONE_FAILS

_LAG = quantile(0.95, "jumplora_event_loop_lag_seconds", "namespace, job, instance", SERVERS)

HEARTBEAT = stat(
    "Engine",
    "s",
    "jumplora_engine_heartbeat_age_seconds: since the last progress of the engine, on servers with "
    "jumplora_requests_running or jumplora_requests_waiting; 0 on others. Above 30 s it is stuck.",
    f"max(jumplora_engine_heartbeat_age_seconds{{{SERVERS}}} * "
    f"(jumplora_requests_running{{{SERVERS}}} + jumplora_requests_waiting{{{SERVERS}}} > bool 0))",
    Thresholds("green", ((5, "yellow"), (30, "red"))),
    no_value="No server",
    says=(Said(0, "Idle", "green"),),
    alerts=("JumpLoRAEngineStuck",),
)
STORE = stat(
    "Store",
    "short",
    "jumplora_store_fault: whether any server cannot read its store. What is loaded is served.",
    of_servers("max", "jumplora_store_fault"),
    NONE_FAILS,
    no_value="No server",
    says=(Said(0, "Readable", "green"), Said(1, "Fault", "red")),
    alerts=("JumpLoRAStoreFault",),
)
KEYS = stat(
    "File of keys",
    "short",
    "jumplora_keys_fault: whether any server cannot use its file of keys; the keys of before hold.",
    of_servers("max", "jumplora_keys_fault"),
    NONE_FAILS,
    no_value="No server",
    says=(Said(0, "No fault", "green"), Said(1, "Fault", "red")),
    alerts=("JumpLoRAKeysFault",),
)
LOOP_LAG = stat(
    "p95 event loop lag",
    "s",
    "jumplora_event_loop_lag_seconds: how late the loop that answers HTTP wakes up, one time in "
    "twenty, of the latest server.",
    f"max({_LAG})",
    Thresholds("green", ((0.05, "yellow"), (0.1, "red"))),
    no_value="No server",
    alerts=("JumpLoRAEventLoopLag",),
)
STUCK = stat(
    "Loader and watcher",
    "s",
    "jumplora_thread_stuck_seconds: for how long one of them stands still; 0 while they move.",
    of_servers("max", "jumplora_thread_stuck_seconds"),
    Thresholds("green", ((0.001, "yellow"), (120, "red"))),
    no_value="No server",
    says=(Said(0, "Moving", "green"),),
    alerts=("JumpLoRAStoreFault",),
)
CORES = stat(
    "Cores in use",
    "short",
    "process_cpu_seconds_total of the servers: the engine uses all it gets.",
    f"sum(rate(process_cpu_seconds_total{{{SERVERS}}}[$__rate_interval]) {OURS})",
    no_value="No server",
)
DESCRIPTORS = stat(
    "File descriptors",
    "percentunit",
    "process_open_fds over process_max_fds, of the server that has the fewest left.",
    f"max(process_open_fds{{{SERVERS}}} / process_max_fds{{{SERVERS}}} {OURS})",
    Thresholds("green", ((0.8, "yellow"), (0.95, "red"))),
    no_value="No server",
)
STARTS = stat(
    "Restarts",
    "short",
    "process_start_time_seconds: how often a server was started again at its address within 30 "
    "minutes, the most of them. More than two raise an alert.",
    f"max(changes(process_start_time_seconds{{{SERVERS}}}[30m]) {OURS})",
    Thresholds("green", ((1, "yellow"), (3, "red"))),
    no_value="No server",
    says=(Said(0, "None", "green"),),
    alerts=("JumpLoRARestarting",),
)
