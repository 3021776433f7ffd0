"""A measurement's result: tables on the terminal; JSON, markdown and plots in a folder.

Knows nothing of what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jumplora_bench.machine import commit, load_average, machine, processor_flags, versions
from jumplora_bench.plots import Plot, draw

_WIDTH = 150


@dataclass(frozen=True, slots=True)
class Grid:
    """One table; the first column is text, the others are numbers as they are printed."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(slots=True)
class Report:
    """What one command found. `data` is the raw result, for programs."""

    name: str
    title: str
    command: str
    device: str = "cpu"
    about: dict[str, str] = field(default_factory=dict)  # more facts, of what was measured
    grids: list[Grid] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, object] = field(default_factory=dict)
    plots: list[Plot] = field(default_factory=list)
    load_before: str = field(default_factory=load_average)

    def facts(self) -> dict[str, str]:
        """Where, of what and how this was measured."""
        return {
            "machine": machine(self.device),
            "processor flags": processor_flags(),
            "commit": commit(),
            "command": self.command,
            "versions": versions(),
            **self.about,
            "load average before": self.load_before,
        }

    def show(self, console: Console) -> None:
        """Facts, tables, notes."""
        for name, value in self.facts().items():
            console.print(Text(f"{name}: {value}"), soft_wrap=True)
        for grid in self.grids:
            console.print(_table(grid))
        for note in self.notes:
            console.print(Text(note), soft_wrap=True)

    def write(self, folder: Path) -> None:
        """<name>.json, <name>.md and a PNG a plot. Raises PeerMissing without matplotlib."""
        folder.mkdir(parents=True, exist_ok=True)
        drawn = {plot.file(self.name): plot for plot in self.plots}
        for file, plot in drawn.items():
            draw(plot, folder / file)
        record = {**self.facts(), "notes": self.notes, **self.data}
        text = json.dumps(record, indent=1, allow_nan=False)
        (folder / f"{self.name}.json").write_text(text + "\n", encoding="utf-8")
        (folder / f"{self.name}.md").write_text(self._markdown(list(drawn)), encoding="utf-8")

    def _markdown(self, files: Sequence[str]) -> str:
        blocks = [f"# {self.title}"]
        blocks.append("\n".join(f"* {name}: {value}" for name, value in self.facts().items()))
        for grid in self.grids:
            lines = [
                _line(grid.columns),
                _line(["---", *["---:" for _ in grid.columns[1:]]]),
                *map(_line, grid.rows),
            ]
            blocks.append(f"## {grid.title}\n\n" + "\n".join(lines))
        blocks += self.notes
        blocks += [f"![{plot.title}]({file})" for file, plot in zip(files, self.plots, strict=True)]
        return "\n\n".join(blocks) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _table(grid: Grid) -> Table:
    table = Table(title=grid.title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for index, column in enumerate(grid.columns):
        table.add_column(column, justify="right" if index else "left")
    for row in grid.rows:
        table.add_row(*map(Text, row))
    return table


def console() -> Console:
    """Where reports are printed: as wide as their tables want, on a terminal or not."""
    return Console(width=max(_WIDTH, Console().width))
