"""One table of a report, for a terminal or for Markdown; it knows nothing of what stands in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import typer

from jumplora_adapters.cli.output import ColumnStyle, print_table
from jumplora_adapters.printable import printable

_MARKUP = re.compile(r"[\\|<*_`\[]")


@dataclass(frozen=True, slots=True)
class Table:
    """`note` says what the columns mean where their names do not."""

    title: str
    columns: tuple[tuple[str, ColumnStyle], ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def print(self) -> None:
        """To stdout."""
        typer.secho(f"\n{printable(self.title)}", bold=True)
        print_table(self.columns, self.rows)
        if self.note:
            typer.echo(printable(self.note))

    def markdown(self) -> str:
        """A heading, the table with its right-aligned columns, the note."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"## {escaped(self.title)}"
        yield ""
        yield _line(escaped(name) for name, _ in self.columns)
        yield _line("---:" if style == "right" else "---" for _, style in self.columns)
        for row in self.rows:
            yield _line(map(escaped, row))
        yield ""
        if self.note:
            yield escaped(self.note)
            yield ""


def escaped(text: str) -> str:
    """`text` as Markdown shows it literally, in a cell too."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
