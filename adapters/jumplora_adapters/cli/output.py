"""How the commands speak: tables or JSON on stdout, errors and warnings on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NoReturn

import typer
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jumplora_adapters.errors import AdapterError
from jumplora_adapters.printable import printable

ColumnStyle = Literal["left", "right", "fold"]
"""Left or right in one line; `fold` is left, broken into lines where the terminal is narrow."""
_LEAST_FOLDED = 16
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


def print_table(columns: Sequence[tuple[str, ColumnStyle]], rows: Sequence[Sequence[str]]) -> None:
    """A table whose cells are plain text, never cut; a column that is empty is left out."""
    cells = [[printable(cell) for cell in row] for row in rows]
    filled = [n for n in range(len(columns)) if not rows or any(row[n] for row in cells)]
    if not sys.stdout.isatty():
        _print_plainly([columns[n] for n in filled], [[row[n] for n in filled] for row in cells])
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    least = 2  # the edges
    for n in filled:
        name, style = columns[n]
        widest = max(map(cell_len, (name, *(row[n] for row in cells))))
        width = min(widest, _LEAST_FOLDED) if style == "fold" else widest
        least += width + 2  # the space between columns
        table.add_column(
            name,
            justify="right" if style == "right" else "left",
            no_wrap=style != "fold",
            overflow="fold",
            min_width=width,
        )
    for row in cells:
        table.add_row(*(Text(row[n]) for n in filled))
    _print(table, least=least)


def _print_plainly(columns: Sequence[tuple[str, ColumnStyle]], rows: list[list[str]]) -> None:
    """The table as rich draws it, each row one line; rich takes half a second for 1,000 rows."""
    cells = [[name for name, _ in columns], *rows]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    lines: list[str] = []
    for row in cells:
        parts: list[str] = []
        for text, width, (_, style) in zip(row, widths, columns, strict=True):
            space = " " * (width - cell_len(text))
            parts.append(space + text if style == "right" else text + space)
        lines.append(f" {'  '.join(parts)}".rstrip())
    lines.insert(1, f" {'─' * (sum(widths) + 2 * len(widths) - 2)}")
    typer.echo("\n".join(["", *lines, ""]))


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Name and value on a line each."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(Text(printable(name)), Text(printable(value)))
    _print(grid)


def _print(table: Table, *, least: int = 0) -> None:
    """In a terminal folded to its width; in a pipe or file each row is one line, whole.

    A terminal narrower than `least` wraps the lines itself: rich would cut them.
    """
    if sys.stdout.isatty():
        Console(width=max(Console().width, least)).print(table)
        return
    console = Console(width=_NO_LIMIT)
    with console.capture() as captured:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def short(digest: str) -> str:
    """The first 12 digits of a version: enough to tell versions apart, and accepted after @."""
    return digest[:12]


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
