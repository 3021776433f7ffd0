"""What a reader must know before the tables: what was left out, and what does not compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jumplora_adapters.continual.report.runs import Environment, Unfinished
from jumplora_adapters.continual.report.summary import GroupSummary


def notes(summaries: Sequence[GroupSummary], unfinished: Sequence[Unfinished]) -> tuple[str, ...]:
    """One sentence each, the most important first."""
    return tuple(_notes(summaries, unfinished))


def _notes(summaries: Sequence[GroupSummary], unfinished: Sequence[Unfinished]) -> Iterator[str]:
    for run in unfinished:
        yield f"left out, not finished: {run}"
    backbones = {
        summary.group.config.backbone.identity: summary.group.config.backbone
        for summary in summaries
    }
    if len(backbones) > 1:
        named = ", ".join(f"{it.name} ({it.fingerprint[:8]})" for it in backbones.values())
        yield (
            f"the runs are of {len(backbones)} backbones, {named}: runs of different backbones "
            "are neither grouped nor compared"
        )
    machines = {
        _machine(run.environment): None for summary in summaries for run in summary.group.runs
    }
    yield f"measured on {'; '.join(machines)}" + (
        ": times and memory compare on one machine only" if len(machines) > 1 else ""
    )
    if count := sum(len(summary.warnings) for summary in summaries):
        yield f"warnings of the trainings: {count}, in the table of that name"


def _machine(environment: Environment) -> str:
    parts = (
        environment.cpu,
        _number("cores", environment.cores),
        _number("threads", environment.threads),
        _number("processes", environment.processes),
        f"device {environment.device}",
        None if environment.torch is None else f"torch {environment.torch}",
    )
    return ", ".join(part for part in parts if part)


def _number(name: str, value: int | None) -> str | None:
    return None if value is None else f"{name} {value}"
