"""What the states of a run are called, the bare backbone first."""

from __future__ import annotations

from jumplora_adapters.continual.report.runs import RunConfig


def stage_names(config: RunConfig) -> tuple[str, ...]:
    """One name for each row of the accuracy matrix."""
    match config.method:
        case "joint":
            return "bare backbone", "all tasks"
        case "independent":
            return "bare backbone", *(f"{task} alone" for task in config.order.tasks)
        case _:
            return "bare backbone", *(f"after {task}" for task in config.order.tasks)
