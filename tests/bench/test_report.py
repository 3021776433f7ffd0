"""Reports on the terminal, and as files."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from jumplora_bench.plots import BarPlot, LinePlot
from jumplora_bench.report import Grid, Report


def made() -> Report:
    report = Report("thing", "A thing", "jumplora bench thing --rounds 1")
    report.grids.append(Grid("Times", ("case", "s"), [("a|b [x]", "1.0")]))
    report.notes.append("A note.")
    report.data["seconds"] = {"a": [1.0]}
    report.plots = [
        BarPlot("Seconds by case", "s", {"a": (1.0, 0.5, 2.0)}),
        LinePlot("By rate", "1/s", "s", {"p50": [(1.0, 0.1), (2.0, 0.2)], "p99": [(1.0, 0.3)]}),
    ]
    return report


def test_the_terminal_shows_where_and_how_it_was_measured() -> None:
    console = Console(width=150)
    with console.capture() as captured:
        made().show(console)
    text = captured.get()
    for part in ("machine: ", "commit: ", "command: jumplora bench thing --rounds 1", "A note."):
        assert part in text
    assert "a|b [x]" in text, "a cell is text, not markup"


def test_a_folder_gets_json_markdown_and_plots(tmp_path: Path) -> None:
    made().write(tmp_path / "new")
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {"thing.json", "thing.md", "thing-seconds-by-case.png", "thing-by-rate.png"}
    record = json.loads((tmp_path / "new" / "thing.json").read_text("utf-8"))
    assert record["seconds"] == {"a": [1.0]}
    assert record["command"] == "jumplora bench thing --rounds 1"
    markdown = (tmp_path / "new" / "thing.md").read_text("utf-8")
    assert "| case | s |\n| --- | ---: |\n| a\\|b [x] | 1.0 |" in markdown
    assert "![By rate](thing-by-rate.png)" in markdown
    assert (tmp_path / "new" / "thing-by-rate.png").read_bytes().startswith(b"\x89PNG")
