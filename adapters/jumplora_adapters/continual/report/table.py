"""One table of a report, for a terminal or for Markdown; it knows nothing of what stands in it.

A page is 80 columns wide, in a terminal and elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import typer

from jumplora_adapters.cli.output import ColumnStyle, print_table, print_text
from jumplora_adapters.printable import printable

PAGE = 80
_MARKUP = re.compile(r"[\\|<*_`\[]")


@dataclass(frozen=True, slots=True)
class Table:
    """`note` says what the columns mean where their names do not.

    The first `keys` columns name a row: where a page has no room for all columns, these stand again
    before the rest.
    """

    title: str
    columns: tuple[tuple[str, ColumnStyle], ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    keys: int = 1

    def print(self) -> None:
        """To stdout."""
        typer.echo()
        print_text(self.title, PAGE, bold=True)
        print_table(self.columns, self.rows, width=PAGE, keys=self.keys)
        if self.note:
            print_text(self.note, PAGE)

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
