"""The marks over the graphs: what happened to tasks and servers, from our own metrics."""

from __future__ import annotations

from deploy.grafana.panel import Mark
from deploy.grafana.promql import OURS, SELECTED, SERVERS, WINDOW


def _grown(counter: str) -> str:
    return f"sum by (task_id) (increase({counter}{{{SELECTED}}}{WINDOW})) > 0"


_ENDED = f"jumplora_adapter_stage_endings_total{{{SELECTED}}}"
_ENDINGS = f"sum by (task_id, ending, cause) ({_ENDED})"
_ENDINGS_BEFORE = f"sum by (task_id, ending, cause) ({_ENDED} offset $__rate_interval)"

MARKS = (
    Mark(
        "Versions published",
        _grown("jumplora_adapter_swaps_total"),
        "{{task_id}}: another version",
        "A version of task {{task_id}} took the place of another.",
        "blue",
        "task_id",
    ),
    Mark(
        "Rollbacks",
        _grown("jumplora_adapter_rollbacks_total"),
        "{{task_id}}: rolled back",
        "Task {{task_id}} went back to an earlier version.",
        "orange",
        "task_id",
    ),
    Mark(
        "Stages ended",
        # The first ending makes the series, which `increase` would not see: hence "or 0 *".
        f"{_ENDINGS} - ({_ENDINGS_BEFORE} or 0 * {_ENDINGS}) > 0",
        "{{task_id}}: stage {{ending}}",
        "The staged version of task {{task_id}} was {{ending}} (cause: {{cause}}).",
        "purple",
        "task_id,ending,cause",
    ),
    Mark(
        "Server starts",
        f"1000 * process_start_time_seconds{{{SERVERS}}} {OURS}",
        "{{instance}} started",
        "The server {{instance}} of job {{job}} started.",
        "green",
        "instance",
        time="the value",
    ),
    Mark(
        "Alerts",
        "max by (alertname, severity, task_id, instance) "
        '(ALERTS{alertname=~"JumpLoRA.*", alertstate="firing", job=~"$job", '
        'instance=~"$instance|", namespace=~"$namespace|", task_id=~"$task_id|"})',
        "{{alertname}}",
        "{{alertname}} ({{severity}}) {{task_id}} {{instance}}",
        "red",
        "alertname,severity",
        needs="firing alert",
    ),
)
