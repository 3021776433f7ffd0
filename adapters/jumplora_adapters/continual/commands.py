"""`jumplora continual ...`: the commands about sequences of tasks that need no server."""

from __future__ import annotations

import typer

from jumplora_adapters.continual.cli import run
from jumplora_adapters.continual.report.cli import report


def group() -> typer.Typer:
    """A new group, so that the server's command line may add what needs its client."""
    app = typer.Typer(
        help="Train task after task, measure what is kept and what is lost, publish the result.",
        no_args_is_help=True,
    )
    app.command("run")(run)
    app.command("report")(report)
    return app
