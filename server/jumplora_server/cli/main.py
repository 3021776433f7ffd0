"""The one command line, `jumplora`: the server's commands and those of the adapters.

Only names, options and help texts are imported here; torch and the rest inside the commands.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import typer

from jumplora_adapters.cli.app import register
from jumplora_adapters.continual.commands import group
from jumplora_adapters.training.cli import train
from jumplora_server.cli.batch import batch
from jumplora_server.cli.calibrate import calibrate
from jumplora_server.cli.change import remove, rollback
from jumplora_server.cli.evaluate import evaluate
from jumplora_server.cli.generate import generate
from jumplora_server.cli.publish import publish, publish_run
from jumplora_server.cli.serve import serve_command
from jumplora_server.version import VERSION


def command_line() -> typer.Typer:
    """All commands."""
    app = typer.Typer(
        name="jumplora",
        help="Many sparse task adapters on one T5: train, publish, serve.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    app.command("serve")(serve_command())
    app.command("generate")(generate)
    app.command("batch")(batch)
    app.command("evaluate")(evaluate)
    app.command("calibrate")(calibrate)
    app.command("publish")(publish)
    app.command("rollback")(rollback)
    app.command("remove")(remove)
    app.command("train")(train)
    continual = group()
    continual.command("publish")(publish_run)
    app.add_typer(continual, name="continual")
    if find_spec("jumplora_bench") is not None:  # a clone has it, an installed wheel has not
        app.add_typer(import_module("jumplora_bench.cli").group(), name="bench")
    register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jumplora {VERSION}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    del version


def main() -> None:
    """The console script."""
    command_line()()
