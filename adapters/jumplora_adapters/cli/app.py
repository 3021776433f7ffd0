"""The adapters' commands, to be mounted on `jumplora`.

torch and the rest are imported inside the commands, so that `jumplora --help` is quick.
"""

from __future__ import annotations

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


def register(app: typer.Typer) -> None:
    """Add inspect, verify, list, convert, flatten, canary, overlap, import-backbone."""
    app.command("inspect")(inspect.inspect)
    app.command("verify")(verify.verify)
    app.command("list")(shelf.list_tasks)
    app.add_typer(convert.app, name="convert")
    app.command("flatten")(flatten.flatten)
    app.command("canary")(canary.canary)
    app.command("overlap")(overlap.overlap)
    app.command("import-backbone")(import_backbone.import_backbone)
