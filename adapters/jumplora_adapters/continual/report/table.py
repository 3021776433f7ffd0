"""One table of a report, for a terminal or for Markdown; it knows nothing of what stands in it.

A page is 80 columns wide, in a terminal and elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import typer

from jumplora_adapters.cli.columns import folded, split_columns
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
        """A heading, the table with its right-aligned columns, the note.

        A table that is wider than a page is several, as in a terminal; only its cells stay whole.
        """
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"## {escaped(self.title)}"
        yield ""
        head = [escaped(name) for name, _ in self.columns]
        cells = [[escaped(cell) for cell in row] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        room = PAGE - 2 * len("| ")
        for part in split_columns(widths, room, keys=self.keys, gap=len(" | ")):
            yield _line(head[n] for n in part)
            yield _line("---:" if self.columns[n][1] == "right" else "---" for n in part)
            for row in cells:
                yield _line(row[n] for n in part)
            yield ""
        if self.note:
            yield from paragraph(self.note)
            yield ""


def paragraph(text: str, *, begin: str = "") -> list[str]:
    """Of Markdown, in lines of a page."""
    first, *rest = folded(escaped(text), PAGE - len(begin))
    return [begin + first, *(" " * len(begin) + line for line in rest)]


def escaped(text: str) -> str:
    """`text` as Markdown shows it literally, in a cell too."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
