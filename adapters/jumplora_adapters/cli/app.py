"""The adapters' commands, to be mounted on `jumplora`.

torch and the rest are imported inside the commands, so that `jumplora --help` is quick.
"""

from __future__ import annotations

from collections.abc import Collection

import typer

from jumplora_adapters.cli import (
    canary,
    convert,
    flatten,
    import_backbone,
    inspect,
    overlap,
    shelf,
    verify,
)


def register(app: typer.Typer, *, panel: str | None = None, left_out: Collection[str] = ()) -> None:
    """Add the commands under a heading of the help, but for those that `left_out` names."""
    for name, command in (
        ("inspect", inspect.inspect),
        ("verify", verify.verify),
        ("list", shelf.list_tasks),
        ("convert", convert.app),
        ("flatten", flatten.flatten),
        ("canary", canary.canary),
        ("overlap", overlap.overlap),
        ("import-backbone", import_backbone.import_backbone),
    ):
        if name in left_out:
            continue
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(command)
