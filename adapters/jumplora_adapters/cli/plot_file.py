"""The option of commands that draw: a PNG file, and what is said where matplotlib is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from jumplora_adapters.cli.options import INSTALL_TRAIN
from jumplora_adapters.cli.output import fail
from jumplora_adapters.printable import printable


def png_file(path: Path | None) -> Path | None:
    """`path` if it is a PNG's name, else a usage error."""
    if path is not None and path.suffix.lower() != ".png":
        raise typer.BadParameter(f"{path} given; the name of a plot ends in .png")
    return path


@contextmanager
def drawing(path: Path, what: str) -> Iterator[None]:
    """Import the module that draws, and draw, inside: `path` is there then, and that is said.

    Ends the command where matplotlib is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except ImportError as error:
        fail(f"{path} was not drawn: plots need the train extra: {INSTALL_TRAIN} ({error})")
    typer.echo(f"{printable(str(path))}: {what}", err=True)
