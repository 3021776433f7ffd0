"""What a page for people shows: its blocks in order, and whether commands print what it shows."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A number, or a version; what stands before or after it on the same word counts.
# A dot alone is the zero of a table.
_NUMBER = re.compile(r"[0-9a-f]{12,64}|[+-]?\d+(?:[.,]\d+)*|(?<!\S)\.(?!\S)")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page: commands to type, or what they print."""

    language: str
    text: str
    line: int  # of the page, of the fence

    @property
    def is_typed(self) -> bool:
        """Whether a reader types it. Other blocks show what a command prints."""
        return self.language in ("bash", "python")


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in its order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start()) + 1)
        for found in _BLOCK.finditer(text)
    ]


def steps(page: Path) -> list[tuple[Block, list[Block]]]:
    """Each typed block with the blocks that follow it and show what it prints."""
    found: list[tuple[Block, list[Block]]] = []
    for is_typed, group in groupby(blocks(page), key=lambda block: block.is_typed):
        if is_typed:
            found += [(block, []) for block in group]
        elif found:
            found[-1][1].extend(group)
    return found


def words(line: str) -> str:
    """A line without what differs between processors: numbers are `#`, white space is one space."""
    return " ".join(_NUMBER.sub("#", line).split())


def lacking(shown: Block, printed: str) -> list[str]:
    """What a block shows and the command did not print.

    JSON is compared as a whole. Of other output each line shown must have been printed, in that
    order, but numbers may differ, and the page may leave lines out.
    """
    if shown.language == "json":
        found, _ = json.JSONDecoder().raw_decode(printed.strip())  # curl ends no line
        return [] if found == json.loads(shown.text) else [shown.text]
    return lacking_lines(shown.text, printed)


def lacking_lines(shown: str, printed: str) -> list[str]:
    """Lines shown that were not printed. White space and rules alone are not compared."""
    rest = [words(line) for line in printed.splitlines()]
    found = []
    for line in shown.splitlines():
        if not line.strip(" ─━"):
            continue
        if words(line) in rest:
            rest = rest[rest.index(words(line)) + 1 :]
        else:
            found.append(line)
    return found
