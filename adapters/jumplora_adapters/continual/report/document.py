"""All numbers of a report as one JSON document, for programs. Scores are shares, not per cent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TypeVar

from jumplora_adapters.continual.report.comparisons import PUBLISHED, Comparison
from jumplora_adapters.continual.report.findings import Finding
from jumplora_adapters.continual.report.runs import Run, Unfinished
from jumplora_adapters.continual.report.spread import Spread
from jumplora_adapters.continual.report.stages import stage_names
from jumplora_adapters.continual.report.summary import SCORINGS, GroupSummary

FORMAT = 1
_Name = TypeVar("_Name", bound=str)


def document(
    summaries: Sequence[GroupSummary],
    compared: Sequence[Comparison],
    unfinished: Sequence[Unfinished],
    found: Sequence[Finding],
    told: Sequence[str],
) -> dict[str, object]:
    """Each mean has `deviation` (null for one seed) and `count`; null where nothing is defined."""
    return {
        "format": FORMAT,
        "summary": {finding.about: finding.text for finding in found},
        "notes": list(told),
        "unfinished": [
            {"folder": str(run.folder), "done": run.done, "stages": run.stages}
            for run in unfinished
        ],
        "groups": [_group(summary) for summary in summaries],
        "comparisons": [asdict(comparison) for comparison in compared],
        "published": [asdict(line) for line in PUBLISHED],
    }


def _group(summary: GroupSummary) -> dict[str, object]:
    config = summary.group.config
    return {
        "label": summary.group.label,
        "method": config.method,
        "gate": config.gate,
        "backbone": asdict(config.backbone),
        "order": asdict(config.order),
        "seeds": list(summary.group.seeds),
        "runs": [_run(run) for run in summary.group.runs],
        "scores": {
            scoring: {
                "measures": _spreads(summary.measures[scoring]),
                "by_seed": {
                    str(seed): dict(values) for seed, values in summary.by_seed[scoring].items()
                },
                "matrix": [
                    {"state": name, "tasks": _spreads(cells)}
                    for name, cells in zip(stage_names(config), summary.cells[scoring], strict=True)
                ],
            }
            for scoring in SCORINGS
        },
        "costs": _spreads(summary.costs),
        "label_loss": summary.label_loss,
        "site_densities": dict(summary.sites),
        "gate_moves": [asdict(move) for move in summary.gate],
        "warnings": [asdict(warning) for warning in summary.warnings],
    }


def _run(run: Run) -> dict[str, object]:
    return {
        "folder": str(run.folder),
        "run": run.config.run,
        "seed": run.config.seed,
        "pruned_to": list(run.config.prune.density) if run.config.prune else None,
        "settings": dict(run.settings),
        "environment": asdict(run.environment),
        "pairs": [asdict(pair) for pair in run.pairs],
    }


def _spreads(values: Mapping[_Name, Spread | None]) -> dict[str, object]:
    return {name: asdict(value) if value else None for name, value in values.items()}
