"""How the commands speak: tables or JSON on stdout, errors and warnings on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jumplora_adapters.cli.columns import Column, fitted, folded, unlimited
from jumplora_adapters.errors import AdapterError
from jumplora_adapters.printable import printable

ColumnStyle = Literal["left", "right", "fold"]
"""`right` is for numbers, which are never folded; `fold` is left, for texts of any length."""
_NO_LIMIT = 1 << 20
# By an error's code: the command that helps, where the message cannot know it.
_ADVICE = {
    "unknown_task": "`jumplora list` shows the tasks",
    "unknown_version": "`jumplora list TASK` shows the versions",
}


@contextmanager
def reported_errors() -> Iterator[None]:
    """Turn what a user can mend into one line on stderr and exit code 1."""
    try:
        yield
    except AdapterError as error:
        advice = _ADVICE.get(error.code)
        fail(f"error ({error.code}): {error}" + (f"; {advice}" if advice else ""))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fail(f"error (io): {where}{error.strerror or error}")


def fail(message: str) -> NoReturn:
    """Print `message` to stderr and end the command with exit code 1."""
    typer.secho(printable(message), fg="red", err=True)
    raise typer.Exit(1)


def warn(message: str) -> None:
    """Print a warning to stderr."""
    typer.secho(f"warning: {printable(message)}", fg="yellow", err=True)


def note(message: str) -> None:
    """Print to stderr what a reader of the result should know, and need not change."""
    typer.secho(f"note: {printable(message)}", err=True)


def print_json(value: object) -> None:
    """The whole of stdout for `--json`; numbers that JSON lacks are a ValueError."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # Inside JSON's strings \uXXXX is the character itself; outside of them are only line ends.
    typer.echo("\n".join(map(printable, text.split("\n"))))


def print_table(
    columns: Sequence[tuple[str, ColumnStyle]],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None = None,
    keys: int = 1,
) -> None:
    """A table whose cells are plain text, never cut; a column that is empty is left out.

    It is fitted into `width`. Without one it takes the terminal's, and in a pipe or file each row
    is one line. Where not all columns have room, several tables have the first `keys` of them.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    filled = [
        Column(name, tuple(row[n] for row in cells), style == "right")
        for n, (name, style) in enumerate(columns)
        if not any(map(any, cells)) or any(row[n] for row in cells)
    ]
    is_terminal = sys.stdout.isatty()
    if width is None and is_terminal:
        width = Console().width
    parts = [unlimited(filled)] if width is None else fitted(filled, width, keys=keys)
    for lines in parts:
        rule = next(n for n, line in enumerate(lines) if set(line.strip()) == {"─"})
        head = [typer.style(line, bold=True) if is_terminal else line for line in lines[:rule]]
        typer.echo("\n".join(["", *head, *lines[rule:]]))
    typer.echo()


def print_text(text: str, width: int, *, begin: str = "", bold: bool = False) -> None:
    """A paragraph, folded; `begin` stands before its first line, as much space before the rest."""
    first, *rest = folded(printable(text), width - len(begin))
    lines = [begin + first, *(" " * len(begin) + line for line in rest)]
    typer.secho("\n".join(lines), bold=bold)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Name and value on a line each."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(Text(printable(name)), Text(printable(value)))
    _print(grid)


def _print(table: Table) -> None:
    """In a terminal folded to its width; in a pipe or file each row is one line, whole."""
    if sys.stdout.isatty():
        Console().print(table)
        return
    console = Console(width=_NO_LIMIT)
    with console.capture() as captured:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def short(digest: str) -> str:
    """The first 12 digits of a version: enough to tell versions apart, and accepted after @."""
    return digest[:12]


def change_name(event: str) -> str:
    """How a table calls a change of the store, or what came of a publish."""
    return "current again" if event in ("repoint", "repointed") else event


def share(value: float) -> str:
    """A density as a percentage."""
    return f"{100 * value:.2f} %"


def size(nbytes: int) -> str:
    """Bytes in the largest unit of 1000 that leaves a number from 1."""
    amount = float(nbytes)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
