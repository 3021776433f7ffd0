"""Tables in a limited width: cells folded at words, and columns without room moved below.

Nothing is cut. It knows neither what stands in a table nor where it is printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.cells import cell_len

_LEAST_FOLDED = 12  # a word of more cells may be broken, at a joint if it has one
_INDENT = "  "  # of a name's second line, so that it does not look like another row
_MARGIN = 1
_GAPS = (2, 1)
_BREAKS = re.compile(r"(?<!±) (?![±%])")  # a number stays with its deviation and its unit
_JOINTS = re.compile(r"[^-_/.]+[-_/.]*|[-_/.]+")


@dataclass(frozen=True, slots=True)
class Column:
    """Its name and its cells, all of one line. Cells on the right are never folded."""

    name: str
    cells: tuple[str, ...]
    is_right: bool = False

    @property
    def most(self) -> int:
        """Width with nothing folded."""
        return max(map(cell_len, (self.name, *self.cells)))

    @property
    def least(self) -> int:
        """Width below which a word or a number would be broken."""
        word = max(map(cell_len, self.name.split()), default=0)
        if self.is_right:
            return max([word, *map(cell_len, self.cells)])
        words = (cell_len(word) for t in (self.name, *self.cells) for word in _BREAKS.split(t))
        return min(self.most, _LEAST_FOLDED, max(words, default=0) + len(_INDENT))


def fitted(columns: Sequence[Column], width: int, *, keys: int = 1) -> list[list[str]]:
    """The lines of one table, or of several below each other, each of which has the first `keys`
    columns. The first lines of each are its head, and a rule.

    Lines are at most `width` cells, unless keys and one more column have no room at all.
    """
    if _room(columns, width) is not None:
        return [_fitted(columns, width)]
    return [_fitted(part, width) for part in _parts(columns, width, keys)]


def unlimited(columns: Sequence[Column]) -> list[str]:
    """The lines of one table, each row one line."""
    return _lines(columns, [column.most for column in columns], _GAPS[0])


def split_columns(widths: Sequence[int], room: int, *, keys: int, gap: int) -> list[list[int]]:
    """Columns by their numbers, in parts that have room: as few as can be, of about as many each.

    The first `keys` are in every part. Where they and one more have no room, each has its own part.
    """
    head, rest = list(range(keys)), list(range(keys, len(widths)))
    for count in range(1, len(rest)):
        cut = [len(rest) * n // count for n in range(count + 1)]
        parts = [head + rest[start:end] for start, end in pairwise(cut)]
        if all(sum(widths[n] + gap for n in part) - gap <= room for part in parts):
            return parts
    return [[*head, n] for n in rest] or [head]


def folded(text: str, width: int, *, indent: str = "") -> list[str]:
    """`text` in lines of at most `width` cells; all lines but the first begin with `indent`.

    Spaces end a line first (not those of `1.5 ± 0.2 %`); a word that is too long is broken after
    `-`, `_`, `/` or `.`, else anywhere.
    """
    lines = [""]
    for word in _BREAKS.split(text):
        joined = f"{lines[-1]} {word}" if lines[-1].strip() else lines[-1] + word
        if cell_len(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1].strip():
            lines.append(indent)
        for piece in _pieces(word, width - len(indent)):
            if lines[-1].strip() and cell_len(lines[-1] + piece) > width:
                lines.append(indent)
            lines[-1] += piece
    return lines


def _pieces(word: str, width: int) -> Iterator[str]:
    for piece in _JOINTS.findall(word):
        while cell_len(piece) > width:
            taken = next(n for n in range(len(piece), 0, -1) if cell_len(piece[:n]) <= width)
            yield piece[:taken]
            piece = piece[taken:]
        yield piece


def _fitted(columns: Sequence[Column], width: int) -> list[str]:
    widths, gap = _room(columns, width) or ([column.least for column in columns], _GAPS[-1])
    return _lines(columns, widths, gap)


def _room(columns: Sequence[Column], width: int) -> tuple[list[int], int] | None:
    """The widths of the columns and the gap between them; None where they have no room."""
    for gap in _GAPS:
        if widths := _widths(columns, width - _MARGIN - gap * (len(columns) - 1)):
            return widths, gap
    return None


def _widths(columns: Sequence[Column], room: int) -> list[int] | None:
    """Of each column, the widest narrowed first."""
    widths, least = [c.most for c in columns], [c.least for c in columns]
    while sum(widths) > room:
        n = max(range(len(widths)), key=lambda n: (widths[n] > least[n], widths[n]))
        if widths[n] == least[n]:
            return None
        widths[n] -= 1
    return widths


def _parts(columns: Sequence[Column], width: int, keys: int) -> list[list[Column]]:
    least = [column.least for column in columns]
    parts = split_columns(least, width - _MARGIN, keys=keys, gap=_GAPS[-1])
    return [[columns[n] for n in part] for part in parts]


def _lines(columns: Sequence[Column], widths: Sequence[int], gap: int) -> list[str]:
    lines = [*_row([column.name for column in columns], columns, widths, gap)]
    lines.append(" " * _MARGIN + "─" * (sum(widths) + gap * (len(widths) - 1)))
    for cells in zip(*(column.cells for column in columns), strict=True):
        lines += _row(cells, columns, widths, gap)
    return lines


def _row(
    cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int], gap: int
) -> Iterator[str]:
    """As many lines as the cell of the most lines."""
    parts = [
        [cell] if cell_len(cell) <= width else folded(cell, width, indent="" if n else _INDENT)
        for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    for line in range(max(map(len, parts))):
        texts: list[str] = []
        for part, column, width in zip(parts, columns, widths, strict=True):
            text = part[line] if line < len(part) else ""
            space = " " * (width - cell_len(text))
            texts.append(space + text if column.is_right else text + space)
        yield (" " * _MARGIN + (" " * gap).join(texts)).rstrip()
