"""Panels about requests: the table of tasks, objectives, latency, traffic and refusals."""

from __future__ import annotations

from deploy.grafana.panel import ColumnLink, Panel, Query
from deploy.grafana.promql import (
    RESIDENT,
    SELECTED,
    SERVERS,
    WINDOW,
    mean,
    of_servers,
    of_tasks,
    quantile,
    rate,
)
from deploy.grafana.stats import BUDGET, DURATION, FIRST_TOKEN, HOUR, failed_share, within

# Grafana fills in the time and the choices at the top, so that both stay over the click.
_KEPT = "&".join(
    ["${__url_time_range}"]
    + [f"${{{name}:queryparam}}" for name in ("datasource", "job", "namespace", "instance", "slo")]
)


def _latency(title: str, histogram: str, q: float, description: str) -> Panel:
    query = Query(quantile(q, histogram), "{{task_id}}")
    return Panel(title, "timeseries", "s", description, (query,), by_task="by task")


TASKS = Panel(
    "Tasks",
    "table",
    "short",
    "One line a task: jumplora_requests_total, jumplora_request_duration_seconds, "
    "jumplora_generation_tokens_total, jumplora_adapter_memory_bytes (host and device), "
    "jumplora_adapter_density, jumplora_adapter_info. _base is the bare backbone, _unknown what no "
    "registered task answers to, _other all tasks beyond the limit of labels. A click on a task "
    "opens its dashboard.",
    (
        Query(rate("jumplora_requests_total"), "Requests/s"),
        Query(quantile(0.5, DURATION), "p50"),
        Query(quantile(0.95, DURATION), "p95"),
        Query(quantile(0.99, DURATION), "p99"),
        Query(failed_share("task_id"), "Failed"),
        Query(rate("jumplora_generation_tokens_total"), "Tokens/s"),
        Query(f"sum by (task_id) ({RESIDENT})", "Memory"),
        Query(of_tasks("max", "jumplora_adapter_density"), "Density"),
        Query(of_tasks("max", "jumplora_adapter_info", "task_id, version"), "Version"),
    ),
    width=24,
    height=9,
    by_task="by task",
    links=(
        ColumnLink(
            "task_id",
            "Open the task's dashboard",
            f"/d/jumplora-task?var-task_id=${{__value.raw:percentencode}}&{_KEPT}",
        ),
    ),
)
ALERTS = Panel(
    "Alerts",
    "table",
    "short",
    "ALERTS: what the rules in deploy/prometheus say of the chosen servers, firing or waiting for "
    "their time (pending). A click on a name opens the runbook.",
    (
        Query(
            "max by (alertname, alertstate, severity, task_id, instance, job) "
            '(ALERTS{alertname=~"JumpLoRA.*", job=~"$job", instance=~"$instance|", '
            'namespace=~"$namespace|"})',
            "Alert",
        ),
    ),
    width=24,
    height=6,
    no_value="No alerts",
    links=(ColumnLink("alertname", "Open the runbook", f"/d/jumplora-runbook?{_KEPT}"),),
)

WITHIN_BY_TASK = Panel(
    "Answered within the objective",
    "timeseries",
    "percentunit",
    f"{DURATION}: share of each task at or under the bucket's boundary chosen at the top. The "
    "alert's objective is 95 % within 1 s, all tasks together.",
    (Query(within("task_id"), "{{task_id}}"),),
    width=12,
    by_task="by task",
    alerts=("JumpLoRALatencyBudgetBurn", "JumpLoRASlow"),
)
BURN = Panel(
    "Error budget burn",
    "timeseries",
    "short",
    "jumplora_requests_total: failed requests over the 0.1 % that may fail, of now and of the hour "
    "before. The alert fires where the hour and its last five minutes are over 14.4.",
    (
        Query(f"{failed_share()} / {BUDGET}", "now"),
        Query(f"{failed_share('', HOUR)} / {BUDGET}", "1 h"),
    ),
    width=12,
    alerts=("JumpLoRAErrorBudgetBurn", "JumpLoRAErrorBudgetLeak"),
)

P50_REQUEST = _latency("p50 request", DURATION, 0.5, f"{DURATION}: the median request.")
P95_REQUEST = _latency("p95 request", DURATION, 0.95, f"{DURATION}: one in twenty takes longer.")
P99_REQUEST = _latency("p99 request", DURATION, 0.99, f"{DURATION}: one in a hundred takes longer.")
P95_FIRST_TOKEN = _latency(
    "p95 first token", FIRST_TOKEN, 0.95, f"{FIRST_TOKEN}: from arrival to the first token."
)
P95_PER_TOKEN = _latency(
    "p95 time per token",
    "jumplora_time_per_output_token_seconds",
    0.95,
    "jumplora_time_per_output_token_seconds: a request's mean per token after the first. Requests "
    "of one token have none.",
)
P95_QUEUE = _latency(
    "p95 queue",
    "jumplora_request_queue_seconds",
    0.95,
    "jumplora_request_queue_seconds: from arrival to the step that took the request in.",
)
P95_ENCODE = _latency(
    "p95 encode",
    "jumplora_request_encode_seconds",
    0.95,
    "jumplora_request_encode_seconds: the step that encoded the prompt.",
)
P95_DECODE = _latency(
    "p95 decode",
    "jumplora_request_decode_seconds",
    0.95,
    "jumplora_request_decode_seconds: from the encoded prompt to the last token.",
)
WHERE_TIME_GOES = Panel(
    "Where the time goes",
    "timeseries",
    "s",
    "Means of jumplora_request_queue_seconds, jumplora_request_encode_seconds and "
    "jumplora_request_decode_seconds over the chosen tasks.",
    tuple(
        Query(mean(f"jumplora_request_{phase}_seconds", "", SELECTED), phase)
        for phase in ("queue", "encode", "decode")
    ),
    width=12,
    stack="stacked",
)
DISTRIBUTION = Panel(
    "Distribution of requests",
    "heatmap",
    "s",
    f"{DURATION}: requests a second in each bucket, over the chosen tasks.",
    (Query(f"sum by (le) (rate({DURATION}_bucket{{{SELECTED}}}{WINDOW}))", "{{le}}"),),
    width=12,
)

REQUESTS = Panel(
    "Requests by task",
    "timeseries",
    "reqps",
    "jumplora_requests_total: requests that ended.",
    (Query(rate("jumplora_requests_total"), "{{task_id}}"),),
    by_task="by task",
)
OUTCOMES = Panel(
    "Outcomes",
    "timeseries",
    "reqps",
    "jumplora_requests_total by outcome, over the chosen tasks: ok; error, timeout and shed are "
    "the server's, client_* the clients'. client_deadline is a deadline that the client chose.",
    (Query(rate("jumplora_requests_total", "outcome"), "{{outcome}}"),),
    stack="stacked",
    alerts=(
        "JumpLoRAErrorBudgetBurn",
        "JumpLoRAErrorBudgetLeak",
        "JumpLoRATaskErrors",
        "JumpLoRAClientDeadlines",
    ),
)
FAILED_BY_TASK = Panel(
    "Failed by task",
    "timeseries",
    "percentunit",
    "jumplora_requests_total: share of each task's requests that the server failed (error, "
    "timeout, shed).",
    (Query(failed_share("task_id"), "{{task_id}}"),),
    by_task="by task",
    alerts=("JumpLoRATaskErrors",),
)
IN_FLIGHT = Panel(
    "In flight by task",
    "timeseries",
    "short",
    "jumplora_requests_in_flight: accepted and not yet answered.",
    (Query(of_tasks("sum", "jumplora_requests_in_flight"), "{{task_id}}"),),
    by_task="by task",
    stack="stacked",
)
PROMPT_TOKENS = Panel(
    "Prompt tokens",
    "timeseries",
    "short",
    "jumplora_prompt_tokens_total: tokens a second, of requests that ended.",
    (Query(rate("jumplora_prompt_tokens_total"), "{{task_id}}"),),
    by_task="by task",
)
GENERATED_TOKENS = Panel(
    "Generated tokens",
    "timeseries",
    "short",
    "jumplora_generation_tokens_total: tokens a second, of requests that ended.",
    (Query(rate("jumplora_generation_tokens_total"), "{{task_id}}"),),
    by_task="by task",
)

REFUSED_BEFORE_QUEUE = Panel(
    "Refused before the queue",
    "timeseries",
    "reqps",
    "jumplora_admission_rejections_total: which limit was hit, all tasks. queue_requests and "
    "queue_tokens: the server is full; task_quota: one task holds its share.",
    (Query(rate("jumplora_admission_rejections_total", "reason", SERVERS), "{{reason}}"),),
    no_value="No server",
    alerts=("JumpLoRARefusing",),
)
REFUSED_BY_HTTP = Panel(
    "Refused by the HTTP server",
    "timeseries",
    "reqps",
    "jumplora_http_refused_total: requests that no route saw. head, head_size, body: malformed or "
    "too long; head_timeout, body_timeout, read_timeout: the client was too slow; bodies, "
    "connections, descriptors: there was no room.",
    (Query(rate("jumplora_http_refused_total", "reason", SERVERS), "{{reason}}"),),
    no_value="No server",
)
CONNECTIONS = Panel(
    "Connections",
    "timeseries",
    "short",
    "jumplora_http_connections: open connections, idle ones too.",
    (Query(of_servers("sum", "jumplora_http_connections", "instance"), "{{instance}}"),),
    no_value="No server",
)
KEY_REJECTIONS = Panel(
    "Refused by a key's quota",
    "timeseries",
    "reqps",
    "jumplora_key_rejections_total: by the key's id and the limit that was hit (requests, tokens, "
    "rows). They count as client_quota, which burns no budget.",
    (Query(rate("jumplora_key_rejections_total", "key, reason", SERVERS), "{{key}} {{reason}}"),),
    no_value="No refusals",
)
AUTH_REFUSALS = Panel(
    "Refused without the right key",
    "timeseries",
    "reqps",
    "jumplora_auth_refusals_total: the key was missing, unknown or expired, or is not for this "
    "scope or task.",
    (Query(rate("jumplora_auth_refusals_total", "reason", SERVERS), "{{reason}}"),),
    no_value="No refusals",
)
KEYS_FAULT = Panel(
    "File of keys",
    "timeseries",
    "short",
    "jumplora_keys_fault: 1 while a server cannot use its file of keys. The keys of before hold: "
    "one that was taken out still opens.",
    (Query(of_servers("max", "jumplora_keys_fault", "instance"), "{{instance}}"),),
    no_value="No server",
    alerts=("JumpLoRAKeysFault",),
)
