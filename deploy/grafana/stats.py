"""The panels of one number, and when each turns yellow or red.

What a colour says is what an alert or the runbook says; a number of which no value is bad has none.
tests/integration/test_stats.py has a good and a bad value of each.
"""

from __future__ import annotations

from deploy.grafana.panel import Said, Thresholds, stat
from deploy.grafana.promql import (
    OURS,
    RESIDENT,
    SELECTED,
    SERVERS,
    of_servers,
    of_tasks,
    quantile,
    rate,
    share,
)

DURATION = "jumplora_request_duration_seconds"
FIRST_TOKEN = "jumplora_time_to_first_token_seconds"
# The objective: 0.1 % of the requests that a server owes an answer may fail. 14.4 times that pages.
BUDGET = 0.001
FAILED = f'{SELECTED}, outcome=~"error|timeout|shed"'
OWED = f'{SELECTED}, outcome!~"client_.*"'
HOUR = "[1h]"
NONE_FAILS = Thresholds("green", ((1, "red"),))


def failed_share(by: str = "", window: str = "[$__rate_interval]") -> str:
    """Return the share of the requests owed an answer that failed."""
    requests = "jumplora_requests_total"
    return share(rate(requests, by, FAILED, window), rate(requests, by, OWED, window))


def within(by: str = "") -> str:
    """Return the share of requests answered within the chosen bucket boundary."""
    fast = rate(f"{DURATION}_bucket", by, f'{SELECTED}, le="$slo"')
    return share(fast, rate(f"{DURATION}_count", by))


# A server that cannot be scraped has no build_info at this moment, but had one before.
_KNOWN = "and on (job, instance) last_over_time(jumplora_build_info[$__range])"

SERVERS_UP = stat(
    "Servers up",
    "short",
    "up: servers that Prometheus can scrape, of those that had a jumplora_build_info within the "
    "chosen time.",
    f"sum(up{{{SERVERS}}} {_KNOWN})",
    Thresholds("red", ((1, "green"),)),
    no_value="No server",
    alerts=("JumpLoRADown",),
)
SERVERS_DOWN = stat(
    "Servers down",
    "short",
    "up: servers that Prometheus cannot scrape, of those that had a jumplora_build_info within the "
    "chosen time. One that was taken away is not among them.",
    f"sum(1 - up{{{SERVERS}}} {_KNOWN})",
    NONE_FAILS,
    no_value="No server",
    says=(Said(0, "None", "green"),),
    alerts=("JumpLoRADown",),
)
ALERTS_FIRING = stat(
    "Alerts firing",
    "short",
    "ALERTS: alerts of the rules in deploy/prometheus that fire for the chosen servers. The list "
    "below has those that wait for their time, too.",
    f'count(ALERTS{{alertname=~"JumpLoRA.*", alertstate="firing", job=~"$job", '
    f'instance=~"$instance|", namespace=~"$namespace|"}}) or 0 * count(jumplora_build_info'
    f"{{{SERVERS}}})",
    NONE_FAILS,
    no_value="No server",
    says=(Said(0, "None", "green"),),
)
REQUESTS = stat(
    "Requests",
    "reqps",
    "jumplora_requests_total: requests that ended, whatever their outcome.",
    rate("jumplora_requests_total", ""),
)
FAILED_NOW = stat(
    "Failed",
    "percentunit",
    "jumplora_requests_total: share of outcomes error, timeout and shed. What clients did wrong "
    "(client_*) is left out on both sides. Yellow above the objective of 0.1 %, red where an hour "
    "of it pages.",
    failed_share(),
    Thresholds("green", ((BUDGET, "yellow"), (14.4 * BUDGET, "red"))),
    alerts=("JumpLoRAErrorBudgetBurn", "JumpLoRATaskErrors"),
)
BURN = stat(
    "Budget burn, 1 h",
    "short",
    "jumplora_requests_total: share that failed within an hour, over the 0.1 % that may. At 1 the "
    "budget of a month lasts a month, at 14.4 two days, which pages.",
    f"{failed_share('', HOUR)} / {BUDGET}",
    Thresholds("green", ((1, "yellow"), (6, "orange"), (14.4, "red"))),
    alerts=("JumpLoRAErrorBudgetBurn",),
)
WITHIN = stat(
    "Within objective",
    "percentunit",
    "jumplora_request_duration_seconds: share answered within the time chosen at the top, which is "
    "a bucket's boundary. The objective of the alert is 95 % within 1 s.",
    within(),
    Thresholds("red", ((0.95, "green"),)),
    alerts=("JumpLoRALatencyBudgetBurn", "JumpLoRASlow"),
)
P95_REQUEST = stat(
    "p95 request",
    "s",
    f"{DURATION}: from arrival to the last token. Red over a second, which is what 95 % within 1 s "
    "means.",
    quantile(0.95, DURATION, ""),
    Thresholds("green", ((0.5, "yellow"), (1, "red"))),
    alerts=("JumpLoRASlow",),
)
P95_FIRST_TOKEN = stat(
    "p95 first token",
    "s",
    f"{FIRST_TOKEN}: from arrival to the first token. There is an objective of the whole answer "
    "only.",
    quantile(0.95, FIRST_TOKEN, ""),
)
TOKENS = stat(
    "Tokens generated",
    "short",
    "jumplora_generation_tokens_total: tokens a second, of requests that ended.",
    rate("jumplora_generation_tokens_total", ""),
)
IN_FLIGHT = stat(
    "In flight",
    "short",
    "jumplora_requests_in_flight: accepted and not yet answered.",
    of_tasks("sum", "jumplora_requests_in_flight", ""),
)
WAITING = stat(
    "Waiting a server",
    "short",
    "jumplora_requests_waiting: sequences that wait for a row, all tasks, on average of the "
    "servers. Above 4 is the time for another replica.",
    of_servers("avg", "jumplora_requests_waiting"),
    Thresholds("green", ((4, "yellow"),)),
    no_value="No server",
    alerts=("JumpLoRARefusing",),
)
ROWS_IN_USE = stat(
    "Rows in use",
    "percentunit",
    "jumplora_cache_rows_in_use over jumplora_cache_rows: full rows are not a fault, but what "
    "comes then waits.",
    f"{of_servers('sum', 'jumplora_cache_rows_in_use')} / "
    f"{of_servers('sum', 'jumplora_cache_rows')}",
    Thresholds("green", ((0.9, "yellow"),)),
    no_value="No server",
)
REFUSED = stat(
    "Refused",
    "reqps",
    "jumplora_admission_rejections_total: requests refused before the queue, by any limit but the "
    "drain of a server that ends.",
    rate("jumplora_admission_rejections_total", "", f'{SERVERS}, reason!="draining"'),
    Thresholds("green", ((0.001, "red"),)),
    no_value="No server",
    alerts=("JumpLoRARefusing",),
)
TASKS_READY = stat(
    "Tasks ready",
    "short",
    "jumplora_adapter_state: tasks in state READY, counted on every replica. Cold ones are loaded "
    "when they are asked.",
    of_tasks("sum", "jumplora_adapter_state", "", 'state="READY"'),
    no_value="No adapters",
)
TASKS_DEGRADED = stat(
    "Tasks degraded",
    "short",
    "jumplora_adapter_degraded: tasks that serve an older version than the published one.",
    f"count({of_tasks('max', 'jumplora_adapter_degraded')} > 0) "
    f"or 0 * {of_tasks('count', 'jumplora_adapter_degraded', '')}",
    NONE_FAILS,
    no_value="No adapters",
    says=(Said(0, "None", "green"),),
    alerts=("JumpLoRATaskDegraded",),
)
TASKS_FAILED = stat(
    "Tasks failed",
    "short",
    "jumplora_adapter_state: tasks of which no version could be loaded, on any of the servers.",
    "count(" + of_tasks("max", "jumplora_adapter_state", "task_id", 'state="FAILED"') + " > 0) "
    f"or 0 * {of_tasks('count', 'jumplora_adapter_state', '')}",
    NONE_FAILS,
    no_value="No adapters",
    says=(Said(0, "None", "green"),),
    alerts=("JumpLoRATaskDegraded",),
)
ADAPTERS_RESIDENT = stat(
    "Adapters resident",
    "bytes",
    "jumplora_adapter_memory_bytes: host and device bytes of the chosen tasks.",
    f"sum({RESIDENT})",
    no_value="No adapters",
)
BUDGET_USED = stat(
    "Adapter budget",
    "percentunit",
    "jumplora_adapter_budget_used_bytes over jumplora_adapter_budget_limit_bytes, of the fullest "
    "server. Near 1 the least used adapters are evicted; only trunks may pass it.",
    f"max(jumplora_adapter_budget_used_bytes{{{SERVERS}}} "
    f"/ jumplora_adapter_budget_limit_bytes{{{SERVERS}}})",
    Thresholds("green", ((0.9, "yellow"), (1, "red"))),
    no_value="No server",
    alerts=("JumpLoRAAdapterThrash",),
)
PROCESS_MEMORY = stat(
    "Process memory",
    "bytes",
    "process_resident_memory_bytes of the servers.",
    f"sum(process_resident_memory_bytes{{{SERVERS}}} {OURS})",
    no_value="No server",
)

# Of the chosen task.
SERVING = stat(
    "Serving",
    "short",
    "jumplora_adapter_degraded: whether any server answers with an older version than the one that "
    "was published last.",
    of_tasks("max", "jumplora_adapter_degraded", ""),
    NONE_FAILS,
    no_value="No adapter",
    says=(Said(0, "Published version", "green"), Said(1, "Older version", "red")),
    alerts=("JumpLoRATaskDegraded",),
)
VERSIONS_AT_ONCE = stat(
    "Versions at once",
    "short",
    "jumplora_adapter_info: how many versions of a task the servers answer with. More than one for "
    "longer than a swap means that replicas differ.",
    f"max(count by (task_id) ({of_tasks('count', 'jumplora_adapter_info', 'task_id, digest')}))",
    Thresholds("green", ((2, "yellow"),)),
    no_value="No adapter",
)
CANARIES = stat(
    "Canary accuracy",
    "percentunit",
    "jumplora_adapter_canary_accuracy: the lowest of the chosen tasks and servers. Under "
    "JUMPLORA_CANARY_FLOOR (0.5) a version is refused.",
    of_tasks("min", "jumplora_adapter_canary_accuracy", ""),
    Thresholds("red", ((0.5, "yellow"), (0.9, "green"))),
    no_value="No canaries",
    alerts=("JumpLoRACanariesFailed",),
)
DENSITY = stat(
    "Density",
    "percentunit",
    "jumplora_adapter_density: non-zeros over all weights of the target modules, of the densest.",
    of_tasks("max", "jumplora_adapter_density", ""),
    no_value="No adapters",
)
EVICTED = stat(
    "Pushed out a minute",
    "short",
    "jumplora_adapter_evictions_total, reason lru: adapters of the chosen tasks that left memory "
    "for others to fit, and are loaded again when asked.",
    "60 * " + rate("jumplora_adapter_evictions_total", "", f'{SELECTED}, reason="lru"'),
    Thresholds("green", ((0.1, "yellow"), (6, "red"))),
    no_value="No adapters",
    alerts=("JumpLoRAAdapterThrash",),
)
