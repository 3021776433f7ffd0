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
from jumplora_server.cli import keys
from jumplora_server.cli.batch import batch
from jumplora_server.cli.calibrate import calibrate
from jumplora_server.cli.change import load, pin, remove, rollback
from jumplora_server.cli.evaluate import evaluate
from jumplora_server.cli.generate import generate
from jumplora_server.cli.publish import publish, publish_run
from jumplora_server.cli.reading import compare, inspect_adapter, list_tasks
from jumplora_server.cli.serve import serve_command
from jumplora_server.cli.stage import alias, promote, stage, unstage
from jumplora_server.cli.status import status
from jumplora_server.version import VERSION

_ASK, _ADAPTERS, _TRAIN, _MEASURE = "Serve and ask", "Adapters", "Train", "Measure"


def command_line() -> typer.Typer:
    """All commands."""
    app = typer.Typer(
        name="jumplora",
        help="Many sparse task adapters on one T5: train, publish, serve.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    for panel, name, command in (
        (_ASK, "serve", serve_command()),
        (_ASK, "generate", generate),
        (_ASK, "batch", batch),
        (_ASK, "status", status),
        (_ADAPTERS, "publish", publish),
        (_ADAPTERS, "list", list_tasks),
        (_ADAPTERS, "inspect", inspect_adapter),
        (_ADAPTERS, "stage", stage),
        (_ADAPTERS, "promote", promote),
        (_ADAPTERS, "unstage", unstage),
        (_ADAPTERS, "alias", alias),
        (_ADAPTERS, "rollback", rollback),
        (_ADAPTERS, "remove", remove),
        (_ADAPTERS, "load", load),
        (_ADAPTERS, "pin", pin),
        (_TRAIN, "train", train),
        (_MEASURE, "evaluate", evaluate),
        (_MEASURE, "calibrate", calibrate),
        (_MEASURE, "overlap", compare),
    ):
        app.command(name, rich_help_panel=panel)(command)
    register(app, panel=_ADAPTERS, left_out=("list", "inspect", "overlap"))
    app.add_typer(keys.group(), name="keys", rich_help_panel=_ASK)
    continual = group()
    continual.command("publish")(publish_run)
    app.add_typer(continual, name="continual", rich_help_panel=_TRAIN)
    if find_spec("jumplora_bench") is not None:  # a clone has it, an installed wheel has not
        bench = import_module("jumplora_bench.cli").group()
        app.add_typer(bench, name="bench", rich_help_panel=_MEASURE)
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
