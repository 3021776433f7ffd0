"""A report as one Markdown file, with the plots that lie beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jumplora_adapters.continual.report.findings import Finding
from jumplora_adapters.continual.report.table import Table, escaped, paragraph


@dataclass(frozen=True, slots=True)
class Plot:
    """A PNG in the report's folder."""

    file: str
    title: str


def markdown(
    found: Sequence[Finding],
    told: Sequence[str],
    tables: Sequence[Table],
    plots: Sequence[Plot],
) -> str:
    """The findings, the notes, the tables, the plots."""
    parts = ["# Continual runs\n"]
    for finding in found:
        parts += paragraph(f"{finding.about}: {finding.text}", begin="* ")
    parts.append("")
    for note in told:
        parts += paragraph(note, begin="* ")
    parts.append("")
    parts += [table.markdown() for table in tables]
    parts += [
        f"## {escaped(plot.title)}\n\n![{escaped(plot.title)}]({plot.file})\n" for plot in plots
    ]
    return "\n".join(parts)
