"""What the JumpLoRA paper claims, and what the runs at hand say of each claim, paired by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jumplora_adapters.continual.report.groups import are_comparable
from jumplora_adapters.continual.report.labels import NAMES
from jumplora_adapters.continual.report.runs import RunConfig, Scoring
from jumplora_adapters.continual.report.spread import (
    Spread,
    Verdict,
    is_decided,
    paired,
    verdict,
)
from jumplora_adapters.continual.report.summary import SCORINGS, GroupSummary, Measure


@dataclass(frozen=True, slots=True)
class Published:
    """One line of the paper's tables (arXiv 2604.16171): T5-large, three seeds, in per cent.

    SC are the orders 1 to 3 of four tasks, LS the orders 4 to 6 of fifteen.
    """

    label: str
    overall_short: float
    overall_long: float
    backward_short: float | None = None
    density: float | None = None
    jaccard: float | None = None


PUBLISHED = (
    Published("IncLoRA", 62.60, 55.89, -22.9),
    Published("JumpLoRA + IncLoRA", 71.60, 63.75, -11.9, 12.4, 0.065),
    Published("ELLA", 78.23, 71.57),
    Published("JumpLoRA + ELLA", 78.85, 72.72, None, 5.1, 0.012),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """first - second over the seeds of both; `published` in the same unit, by set of orders.

    `verdict` is None where nothing was published: then the sign and `is_decided` say it all.
    """

    first: str
    second: str
    measure: Measure
    scoring: Scoring
    published: Mapping[str, float]
    difference: Spread
    is_decided: bool
    verdict: Verdict | None


def comparisons(summaries: Sequence[GroupSummary]) -> tuple[Comparison, ...]:
    """Of each gated group with the dense and the pruned ones of its method and shared settings.

    OA and BWT, under both scorings. Groups without a common seed are not compared.
    """
    found: list[Comparison] = []
    for first in summaries:
        config = first.group.config
        if config.gate != "jumprelu" or config.method not in NAMES:
            continue
        for second in summaries:
            if _is_counterpart(first, second):
                found += _compare(first, second)
    return tuple(found)


def _is_counterpart(first: GroupSummary, second: GroupSummary) -> bool:
    ours, theirs = first.group.runs[0], second.group.runs[0]
    return (
        theirs.config.gate == "none"
        and theirs.config.method == ours.config.method
        and theirs.config.order.tasks == ours.config.order.tasks
        and are_comparable(ours, theirs)
    )


def _compare(first: GroupSummary, second: GroupSummary) -> list[Comparison]:
    found: list[Comparison] = []
    measures: tuple[Measure, ...] = ("overall", "backward")
    for measure in measures:
        claimed = {} if second.group.config.prune else _claims(first.group.config, measure)
        for scoring in SCORINGS:
            difference = paired(
                {seed: values[measure] for seed, values in first.by_seed[scoring].items()},
                {seed: values[measure] for seed, values in second.by_seed[scoring].items()},
            )
            if difference is None:
                continue
            found.append(
                Comparison(
                    first.group.label,
                    second.group.label,
                    measure,
                    scoring,
                    claimed,
                    difference,
                    is_decided(difference),
                    # Both sets of orders were published with the same sign.
                    verdict(difference, next(iter(claimed.values()))) if claimed else None,
                )
            )
    return found


def _claims(config: RunConfig, measure: Measure) -> dict[str, float]:
    """Set of orders -> published difference that the gate made, as a share."""
    name = NAMES[config.method]
    lines = {line.label: line for line in PUBLISHED}
    dense, gated = lines.get(name), lines.get(f"JumpLoRA + {name}")
    if dense is None or gated is None:
        return {}
    if measure == "overall":
        return {
            "SC": (gated.overall_short - dense.overall_short) / 100,
            "LS": (gated.overall_long - dense.overall_long) / 100,
        }
    if measure != "backward" or gated.backward_short is None or dense.backward_short is None:
        return {}
    return {"SC": (gated.backward_short - dense.backward_short) / 100}
