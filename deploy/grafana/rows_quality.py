"""A row about how good the served versions are, and how much their supports share."""

from __future__ import annotations

from deploy.grafana.panel import Panel, Query, Row
from deploy.grafana.promql import SELECTED


def _of_a_pair(metric: str) -> str:
    """Mean over servers of each pair that one of the chosen tasks is in, first or second."""
    other = f"other_{SELECTED}"
    return f"avg by (task_id, other_task_id) ({metric}{{{SELECTED}}} or {metric}{{{other}}})"


QUALITY = Row(
    "Quality by task",
    (
        Panel(
            "Accuracy",
            "timeseries",
            "percentunit",
            "jumplora_adapter_accuracy: exact match of the served version as its maker scored it, "
            "on test rows, or on dev rows where there are none.",
            (
                Query(
                    f"max by (task_id, version, score) (jumplora_adapter_accuracy{{{SELECTED}}})",
                    "{{task_id}} {{version}} {{score}}",
                ),
            ),
            width=12,
            by_task="by task",
            no_value="No scores",
        ),
        Panel(
            "Canary accuracy",
            "timeseries",
            "percentunit",
            "jumplora_adapter_canary_accuracy: share of the served version's own prompts that a "
            "server answered as expected when it first loaded it; the lowest of the servers.",
            (
                Query(
                    f"min by (task_id, version) (jumplora_adapter_canary_accuracy{{{SELECTED}}})",
                    "{{task_id}} {{version}}",
                ),
            ),
            width=12,
            by_task="by task",
            no_value="No canaries",
        ),
        Panel(
            "Backward transfer",
            "timeseries",
            "percentunit",
            "jumplora_adapter_backward_transfer of the continual run that made the version: how "
            "the accuracy of the earlier tasks had changed when this one was learned. Below 0: "
            "they were forgotten. What is served is another matter: each task is answered by the "
            "model as it was when that task was learned.",
            (
                Query(
                    f"max by (task_id, version) (jumplora_adapter_backward_transfer{{{SELECTED}}})",
                    "{{task_id}} {{version}}",
                ),
            ),
            by_task="by task",
            no_value="No continual runs",
            axis="signed",
        ),
        Panel(
            "Overlap beside chance",
            "timeseries",
            "percentunit",
            "jumplora_adapter_overlap_jaccard of two tasks' supports, and "
            "jumplora_adapter_overlap_chance: what random supports of the same densities would "
            "have. Only the two together say whether tasks share entries or avoid each other.",
            (
                Query(
                    _of_a_pair("jumplora_adapter_overlap_jaccard"),
                    "{{task_id}}, {{other_task_id}}",
                ),
                Query(
                    _of_a_pair("jumplora_adapter_overlap_chance"),
                    "{{task_id}}, {{other_task_id}} chance",
                ),
            ),
            no_value="No pairs",
        ),
        Panel(
            "Overlap over chance",
            "timeseries",
            "short",
            "jumplora_adapter_overlap_jaccard over jumplora_adapter_overlap_chance: 1 is chance, "
            "above it two tasks share entries, below it they avoid each other.",
            (
                Query(
                    _of_a_pair("jumplora_adapter_overlap_jaccard")
                    + " / "
                    + _of_a_pair("jumplora_adapter_overlap_chance"),
                    "{{task_id}}, {{other_task_id}}",
                ),
            ),
            no_value="No pairs",
        ),
    ),
)
