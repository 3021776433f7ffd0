"""`jumplora continual report`: run folders in, tables, one Markdown file, plots or JSON out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.output import fail, print_json, print_text, reported_errors, warn

if TYPE_CHECKING:
    from jumplora_adapters.continual.report.findings import Finding
    from jumplora_adapters.continual.report.summary import GroupSummary
    from jumplora_adapters.continual.report.table import Table

REPORT = "report.md"
_ABOUT = 12  # columns of what a finding is about


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of `jumplora continual run`.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help=f"Folder for {REPORT} and plots; it is made, files replaced."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare finished continual runs: scores, forgetting, transfer, overlap, cost.

    Five sentences come first, then the tables, none wider than 80 columns.
    Runs that differ in the seed alone are one group. Unfinished runs are left out, and named.
    """
    with reported_errors():
        from jumplora_adapters.continual.report.comparisons import comparisons
        from jumplora_adapters.continual.report.document import document
        from jumplora_adapters.continual.report.findings import findings
        from jumplora_adapters.continual.report.notes import notes
        from jumplora_adapters.continual.report.runs import read_runs
        from jumplora_adapters.continual.report.summary import summarise
        from jumplora_adapters.continual.report.tables import tables

        runs, unfinished = read_runs(folders)
        summaries = summarise(runs)
        compared = comparisons(summaries)
        found = findings(summaries, compared, unfinished)
        told = notes(summaries, unfinished)
        made = tables(summaries, compared)
    if as_json:
        for run in unfinished:
            warn(f"left out, not finished: {run}")
        print_json(document(summaries, compared, unfinished, found, told))
    else:
        from jumplora_adapters.continual.report.table import PAGE

        for finding in found:
            print_text(finding.text, PAGE, begin=f"{finding.about:{_ABOUT}}")
        typer.echo()
        for note in told:
            print_text(note, PAGE, begin="* ")
        for table in made:
            table.print()
    if out is not None:
        with reported_errors():
            _write(out, summaries, found, told, made)


def _write(
    out: Path,
    summaries: Sequence[GroupSummary],
    found: Sequence[Finding],
    told: Sequence[str],
    made: Sequence[Table],
) -> None:
    """The plots first, so that the Markdown names only those that are there."""
    from jumplora_adapters.continual.report.markdown import markdown

    out.mkdir(parents=True, exist_ok=True)
    try:
        from jumplora_adapters.continual.report.plots import write_plots
    except ImportError as error:
        (out / REPORT).write_text(markdown(found, told, made, ()), encoding="utf-8")
        fail(
            f"{out / REPORT} was written without plots, which need the train extra: "
            f"{options.INSTALL_TRAIN} ({error})"
        )
    plots = write_plots(summaries, out)
    (out / REPORT).write_text(markdown(found, told, made, plots), encoding="utf-8")
    typer.echo(f"{out / REPORT} and {len(plots)} plots", err=True)
