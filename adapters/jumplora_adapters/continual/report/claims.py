"""The tables that put the runs beside the paper's claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from jumplora_adapters.continual.report.comparisons import PUBLISHED, Comparison, Published
from jumplora_adapters.continual.report.labels import NAMES
from jumplora_adapters.continual.report.numbers import (
    ABSENT,
    BRIEFLY,
    SCORED_NOTE,
    number,
    per_cent,
    right,
    score,
)
from jumplora_adapters.continual.report.summary import GroupSummary, Measure
from jumplora_adapters.continual.report.table import Table

_SHORT: dict[Measure, str] = {"overall": "OA", "backward": "BWT"}


def comparison_table(compared: Sequence[Comparison], names: Mapping[str, str]) -> Table:
    return Table(
        "What the gate changes, paired by seed",
        (
            ("comparison", "fold"),
            ("measure", "left"),
            ("scored", "left"),
            ("published", "fold"),
            *right("measured", "seeds"),
            ("verdict", "fold"),
        ),
        tuple(
            (
                f"{names[comparison.first]} over {names[comparison.second]}",
                _SHORT[comparison.measure],
                BRIEFLY[comparison.scoring],
                ", ".join(f"{k} {100 * v:+.2f}" for k, v in comparison.published.items()) or ABSENT,
                per_cent(comparison.difference, 2, sign="+"),
                str(comparison.difference.count),
                _verdict(comparison),
            )
            for comparison in compared
        ),
        "Differences in points. Published: T5-large, free generation; SC are orders 1 to 3, LS "
        "orders 4 to 6. Undecided: a mean difference of at most two standard errors, or of one "
        "seed, which is within the spread of the seeds. Beyond it, the sign alone is compared "
        f"with the published one. {SCORED_NOTE}",
        keys=3,
    )


def _verdict(comparison: Comparison) -> str:
    """In one word."""
    if not comparison.is_decided:
        return "undecided"
    return comparison.verdict or ("higher" if comparison.difference.mean > 0 else "lower")


def published_table(summaries: Sequence[GroupSummary], names: Mapping[str, str]) -> Table:
    rows: list[tuple[str, ...]] = []
    for line in PUBLISHED:
        measured = [summary for summary in summaries if _name(summary) == line.label]
        if measured:
            rows += _published_rows(line)
            rows += [_measured_row(summary, names[summary.group.label]) for summary in measured]
    return Table(
        "Beside the published numbers",
        (("method", "fold"), ("where", "fold"), *right("OA", "BWT", "density", "Jaccard")),
        tuple(rows),
        "Published: arXiv 2604.16171, free generation. Another backbone, other rows and another "
        "number of steps: only differences compare, not levels.",
        keys=2,
    )


def _published_rows(line: Published) -> Iterator[tuple[str, ...]]:
    density = ABSENT if line.density is None else f"{line.density:.1f} %"
    jaccard = ABSENT if line.jaccard is None else f"{line.jaccard:.3f}"
    backward = ABSENT if line.backward_short is None else f"{line.backward_short:+.1f}"
    yield line.label, "published, SC", f"{line.overall_short:.2f}", backward, density, jaccard
    yield line.label, "published, LS", f"{line.overall_long:.2f}", ABSENT, density, jaccard


def _measured_row(summary: GroupSummary, name: str) -> tuple[str, ...]:
    config = summary.group.config
    return (
        name,
        f"measured, {config.backbone.name}, {config.order.name}",
        score(summary, "exact_match", "overall"),
        score(summary, "exact_match", "backward"),
        per_cent(summary.costs["density"], 1, suffix=" %"),
        number(summary.costs["jaccard"], 3),
    )


def _name(summary: GroupSummary) -> str | None:
    """The published name of what a group ran, if it has one."""
    config = summary.group.config
    if config.prune is not None or config.method not in NAMES:
        return None
    name = NAMES[config.method]
    return f"JumpLoRA + {name}" if config.gate == "jumprelu" else name
