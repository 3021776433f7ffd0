"""Rows about requests: the state at a glance, latency and traffic by task."""

from __future__ import annotations

from deploy.grafana.panel import Panel, Query, Row
from deploy.grafana.promql import OURS, RESIDENT, SELECTED, WINDOW, mean, quantile, rate, share

_DURATION = "jumplora_request_duration_seconds"
_FAILED_OUTCOMES = 'outcome=~"error|timeout|shed"'
_OWED_OUTCOMES = 'outcome!~"client_.*"'


def _stat(title: str, unit: str, description: str, expr: str, no_value: str = "0") -> Panel:
    return Panel(
        title, "stat", unit, description, (Query(expr),), width=4, height=4, no_value=no_value
    )


def _latency(title: str, histogram: str, q: float, description: str) -> Panel:
    query = Query(quantile(q, histogram), "{{task_id}}")
    return Panel(title, "timeseries", "s", description, (query,), by_task="by task")


_ERROR_SHARE = share(
    rate("jumplora_requests_total", "", f"{SELECTED}, {_FAILED_OUTCOMES}"),
    rate("jumplora_requests_total", "", f"{SELECTED}, {_OWED_OUTCOMES}"),
)
_TASK_ERROR_SHARE = share(
    rate("jumplora_requests_total", "task_id", f"{SELECTED}, {_FAILED_OUTCOMES}"),
    rate("jumplora_requests_total", "task_id", f"{SELECTED}, {_OWED_OUTCOMES}"),
)

NOW = Row(
    "Now",
    (
        _stat(
            "Requests",
            "reqps",
            "jumplora_requests_total: requests that ended, whatever their outcome.",
            rate("jumplora_requests_total", ""),
        ),
        _stat(
            "Failed",
            "percentunit",
            "jumplora_requests_total: share of outcomes error, timeout and shed. What clients did "
            "wrong (client_*) is left out on both sides.",
            _ERROR_SHARE,
            "No traffic",
        ),
        _stat(
            "p95 request",
            "s",
            "jumplora_request_duration_seconds: from arrival to the last token.",
            quantile(0.95, _DURATION, ""),
            "No traffic",
        ),
        _stat(
            "p95 first token",
            "s",
            "jumplora_time_to_first_token_seconds: from arrival to the first token.",
            quantile(0.95, "jumplora_time_to_first_token_seconds", ""),
            "No traffic",
        ),
        _stat(
            "Tokens generated",
            "short",
            "jumplora_generation_tokens_total: tokens a second, of requests that ended.",
            rate("jumplora_generation_tokens_total", ""),
        ),
        _stat(
            "In flight",
            "short",
            "jumplora_requests_in_flight: accepted and not yet answered.",
            f"sum(jumplora_requests_in_flight{{{SELECTED}}})",
        ),
        _stat(
            "Waiting",
            "short",
            "jumplora_requests_waiting: sequences that wait for a row, all tasks.",
            "sum(jumplora_requests_waiting)",
        ),
        _stat(
            "Tasks ready",
            "short",
            "jumplora_adapter_state: tasks in state READY, counted on every replica.",
            f'sum(jumplora_adapter_state{{{SELECTED}, state="READY"}})',
        ),
        _stat(
            "Tasks degraded",
            "short",
            "jumplora_adapter_degraded: tasks that serve an older version than the published one.",
            f"sum(jumplora_adapter_degraded{{{SELECTED}}})",
        ),
        _stat(
            "Adapters resident",
            "bytes",
            "jumplora_adapter_memory_bytes: host and device bytes of the chosen tasks.",
            f"sum({RESIDENT})",
        ),
        _stat(
            "Process memory",
            "bytes",
            "process_resident_memory_bytes of the servers.",
            f"sum(process_resident_memory_bytes {OURS})",
        ),
        _stat(
            "Servers up",
            "short",
            "up: targets of the job jumplora that Prometheus can scrape.",
            'sum(up{job="jumplora"})',
        ),
        Panel(
            "Tasks",
            "table",
            "short",
            "One line a task: jumplora_requests_total, jumplora_request_duration_seconds, "
            "jumplora_generation_tokens_total, jumplora_adapter_memory_bytes (host and device), "
            "jumplora_adapter_density, jumplora_adapter_info. _base is the bare backbone, _unknown "
            "what no registered task answers to, _other all tasks beyond the limit of labels.",
            (
                Query(rate("jumplora_requests_total"), "Requests/s"),
                Query(quantile(0.5, _DURATION), "p50"),
                Query(quantile(0.95, _DURATION), "p95"),
                Query(quantile(0.99, _DURATION), "p99"),
                Query(_TASK_ERROR_SHARE, "Failed"),
                Query(rate("jumplora_generation_tokens_total"), "Tokens/s"),
                Query(f"sum by (task_id) ({RESIDENT})", "Memory"),
                Query(f"max by (task_id) (jumplora_adapter_density{{{SELECTED}}})", "Density"),
                Query(
                    f"max by (task_id, version) (jumplora_adapter_info{{{SELECTED}}})", "Version"
                ),
            ),
            width=24,
            height=9,
            by_task="by task",
        ),
    ),
)

LATENCY = Row(
    "Latency by task",
    (
        _latency("p50 request", _DURATION, 0.5, f"{_DURATION}: the median request."),
        _latency("p95 request", _DURATION, 0.95, f"{_DURATION}: one in twenty takes longer."),
        _latency("p99 request", _DURATION, 0.99, f"{_DURATION}: one in a hundred takes longer."),
        _latency(
            "p95 first token",
            "jumplora_time_to_first_token_seconds",
            0.95,
            "jumplora_time_to_first_token_seconds: from arrival to the first token.",
        ),
        _latency(
            "p95 time per token",
            "jumplora_time_per_output_token_seconds",
            0.95,
            "jumplora_time_per_output_token_seconds: a request's mean per token after the first. "
            "Requests of one token have none.",
        ),
        Panel(
            "Answered within 1 s",
            "timeseries",
            "percentunit",
            f"{_DURATION}: share at or under the bucket boundary of 1 s, the objective of the "
            "alert JumpLoRASlow.",
            (
                Query(
                    share(
                        rate(f"{_DURATION}_bucket", "task_id", f'{SELECTED}, le="1.0"'),
                        rate(f"{_DURATION}_count"),
                    ),
                    "{{task_id}}",
                ),
            ),
            by_task="by task",
        ),
        _latency(
            "p95 queue",
            "jumplora_request_queue_seconds",
            0.95,
            "jumplora_request_queue_seconds: from arrival to the step that took the request in.",
        ),
        _latency(
            "p95 encode",
            "jumplora_request_encode_seconds",
            0.95,
            "jumplora_request_encode_seconds: the step that encoded the prompt.",
        ),
        _latency(
            "p95 decode",
            "jumplora_request_decode_seconds",
            0.95,
            "jumplora_request_decode_seconds: from the encoded prompt to the last token.",
        ),
        Panel(
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
        ),
        Panel(
            "Distribution of requests",
            "heatmap",
            "s",
            f"{_DURATION}: requests a second in each bucket, over the chosen tasks.",
            (Query(f"sum by (le) (rate({_DURATION}_bucket{{{SELECTED}}}{WINDOW}))", "{{le}}"),),
            width=12,
        ),
    ),
)

TRAFFIC = Row(
    "Traffic by task",
    (
        Panel(
            "Requests",
            "timeseries",
            "reqps",
            "jumplora_requests_total: requests that ended.",
            (Query(rate("jumplora_requests_total"), "{{task_id}}"),),
            by_task="by task",
        ),
        Panel(
            "Outcomes",
            "timeseries",
            "reqps",
            "jumplora_requests_total by outcome, over the chosen tasks.",
            (Query(rate("jumplora_requests_total", "outcome"), "{{outcome}}"),),
            stack="stacked",
        ),
        Panel(
            "Refused before the queue",
            "timeseries",
            "reqps",
            "jumplora_admission_rejections_total: which limit was hit, all tasks. queue_requests "
            "and queue_tokens: the server is full; task_quota: one task holds its share.",
            (Query(rate("jumplora_admission_rejections_total", "reason", ""), "{{reason}}"),),
        ),
        Panel(
            "Refused by the HTTP server",
            "timeseries",
            "reqps",
            "jumplora_http_refused_total: requests that no route saw. head, head_size, body: "
            "malformed or too long; head_timeout, body_timeout, read_timeout: the client was too "
            "slow; bodies, connections, descriptors: there was no room.",
            (Query(rate("jumplora_http_refused_total", "reason", ""), "{{reason}}"),),
        ),
        Panel(
            "Connections",
            "timeseries",
            "short",
            "jumplora_http_connections: open connections, idle ones too.",
            (Query("sum by (instance) (jumplora_http_connections)", "{{instance}}"),),
        ),
        Panel(
            "In flight",
            "timeseries",
            "short",
            "jumplora_requests_in_flight: accepted and not yet answered.",
            (
                Query(
                    f"sum by (task_id) (jumplora_requests_in_flight{{{SELECTED}}})", "{{task_id}}"
                ),
            ),
            by_task="by task",
            stack="stacked",
        ),
        Panel(
            "Prompt tokens",
            "timeseries",
            "short",
            "jumplora_prompt_tokens_total: tokens a second, of requests that ended.",
            (Query(rate("jumplora_prompt_tokens_total"), "{{task_id}}"),),
            by_task="by task",
        ),
        Panel(
            "Generated tokens",
            "timeseries",
            "short",
            "jumplora_generation_tokens_total: tokens a second, of requests that ended.",
            (Query(rate("jumplora_generation_tokens_total"), "{{task_id}}"),),
            by_task="by task",
        ),
    ),
)
