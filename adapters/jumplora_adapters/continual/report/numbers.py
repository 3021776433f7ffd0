"""How a report writes its numbers: scores in per cent, mean ± standard deviation over the seeds."""

from __future__ import annotations

from jumplora_adapters.cli.output import ColumnStyle, size
from jumplora_adapters.continual.report.runs import Scoring
from jumplora_adapters.continual.report.spread import Spread
from jumplora_adapters.continual.report.summary import GroupSummary, Measure

ABSENT = "–"
SCORED: dict[Scoring, str] = {
    "exact_match": "free generation",
    "best_option": "among the options",
}
BRIEFLY: dict[Scoring, str] = {"exact_match": "free", "best_option": "options"}
"""In cells; `SCORED_NOTE` explains it."""
SCORED_NOTE = (
    f"{BRIEFLY['exact_match']}: the answer is generated; {BRIEFLY['best_option']}: it is the "
    "likeliest of the task's options."
)
_SIGNED: frozenset[Measure] = frozenset(
    {"backward", "zero_shot", "final_over_scratch", "own_over_scratch"}
)


def right(*names: str) -> tuple[tuple[str, ColumnStyle], ...]:
    return tuple((name, "right") for name in names)


def score(summary: GroupSummary, scoring: Scoring, measure: Measure) -> str:
    value = summary.measures[scoring][measure]
    text = per_cent(value, 1, sign="+" if measure in _SIGNED else "")
    if value is not None and value.count < len(summary.group.runs):
        return f"{text} (n={value.count})"
    return text


def per_cent(
    value: Spread | None, digits: int, *, sign: str = "", suffix: str = "", absent: str = ABSENT
) -> str:
    if value is None:
        return absent
    text = f"{100 * value.mean:{sign}z.{digits}f}"
    return f"{text}{_deviation(value, 100, digits)}{suffix}"


def number(value: Spread | None, digits: int) -> str:
    return ABSENT if value is None else f"{value.mean:z.{digits}f}{_deviation(value, 1, digits)}"


def _deviation(value: Spread, scale: float, digits: int) -> str:
    return "" if value.deviation is None else f" ± {scale * value.deviation:.{digits}f}"


def significant(value: Spread) -> str:
    deviation = "" if value.deviation is None else f" ± {value.deviation:.2g}"
    return f"{value.mean:.4g}{deviation}"


def size_of(value: Spread | None) -> str:
    return ABSENT if value is None else size(round(value.mean))
