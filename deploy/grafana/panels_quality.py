"""Panels about how good the served versions are, and how much their supports share."""

from __future__ import annotations

from deploy.grafana.panel import Panel, Query
from deploy.grafana.promql import SELECTED, SERVERS, quantile, rate


def _of_a_pair(metric: str) -> str:
    """Mean over servers of each pair that one of the chosen tasks is in, first or second."""
    other = f'{SERVERS}, other_task_id=~"$task_id"'
    return f"avg by (task_id, other_task_id) ({metric}{{{SELECTED}}} or {metric}{{{other}}})"


ACCURACY = Panel(
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
)
CANARIES = Panel(
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
)
MASS = Panel(
    "Mass of the options",
    "timeseries",
    "percentunit",
    "jumplora_choices_mass: how likely an answer was one of the options, of requests with "
    "choices; half of the prompts, and a tenth, had less. A fall says that clients name "
    "options that the model would not answer.",
    (
        Query(quantile(0.5, "jumplora_choices_mass"), "{{task_id}} median"),
        Query(quantile(0.1, "jumplora_choices_mass"), "{{task_id}} p10"),
    ),
    width=12,
    by_task="by task",
    no_value="No choices",
)
ABSTAINED = Panel(
    "Abstained",
    "timeseries",
    "percentunit",
    "jumplora_abstentions_total over jumplora_choices_mass_count: share of the prompts "
    "with choices that no option answered, by what was less than asked.",
    (
        Query(
            rate("jumplora_abstentions_total", "task_id, cause")
            + " / on (task_id) group_left () "
            + f"({rate('jumplora_choices_mass_count')} > 0)",
            "{{task_id}} {{cause}}",
        ),
    ),
    width=12,
    by_task="by task",
    no_value="No choices",
)
BACKWARD_TRANSFER = Panel(
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
)
OVERLAP = Panel(
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
)
OVERLAP_OVER_CHANCE = Panel(
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
)
