"""The dashboards' files: rows laid out on Grafana's grid, and the check of their metrics."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from deploy.grafana.boards import BOARDS, RUNBOOK
from deploy.grafana.drawing import drawn
from deploy.grafana.panel import Board, Mark, Panel, Row
from deploy.grafana.promql import metric_names
from deploy.grafana.variables import DATASOURCE, variables
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as sdk
from prometheus_client import CollectorRegistry

from jumplora_server.metrics.metrics import Metrics
from jumplora_server.metrics.table import TABLE

FOLDER = Path(__file__).parent / "dashboards"
GRID_WIDTH = 24
# What Prometheus itself makes: the health of a target, and the alerts of its rules.
OF_PROMETHEUS = {"up", "ALERTS"}


class UnknownMetric(Exception):
    """A query names a metric that no code defines."""


class PrometheusMark(sdk.AnnotationQuery):
    """An annotation with the fields of Prometheus' data source, which the SDK's type lacks."""

    def __init__(self, mark: Mark) -> None:
        super().__init__(
            name=mark.name,
            datasource=DATASOURCE,
            enable=True,
            hide=False,
            icon_color=mark.colour,
            expr=mark.expr,
        )
        self._mark = mark

    def to_json(self) -> dict[str, object]:
        """Return the SDK's fields and those of the data source."""
        return super().to_json() | {
            "titleFormat": self._mark.title,
            "textFormat": self._mark.text,
            "tagKeys": self._mark.tags,
            "useValueForTime": self._mark.time == "the value",
        }


def defined_names() -> set[str]:
    """Return every name a query may use: the table's, the process's, and Prometheus' own."""
    names = {name for instrument in TABLE for name in instrument.sample_names()}
    for family in Metrics(CollectorRegistry()).registry.collect():
        names.update(sample.name for sample in family.samples)
    return names | OF_PROMETHEUS


def queries(board: Board) -> Iterable[tuple[str, str]]:
    """Yield where each expression of a dashboard stands, and the expression."""
    for row in board.rows:
        for panel in row.panels:
            for query in panel.queries:
                yield f"panel {panel.title!r} of row {row.title!r}", query.expr
    for mark in board.marks:
        yield f"mark {mark.name!r}", mark.expr


def check_metrics(boards: Iterable[Board], defined: set[str]) -> None:
    """Raise UnknownMetric, naming place and metrics, unless every query reads defined ones."""
    for board in boards:
        for place, expr in queries(board):
            unknown = sorted(metric_names(expr) - defined)
            if unknown:
                raise UnknownMetric(
                    f"{place} of {board.title!r} reads {', '.join(unknown)}: allowed are the names "
                    "in jumplora_server/metrics/table.py, process_*, python_*, up and ALERTS"
                )


def placed(panels: Iterable[Panel], y: int) -> tuple[list[tuple[Panel, sdk.GridPos]], int]:
    """Place panels left to right, top to bottom from y on; return them and the line below."""
    found: list[tuple[Panel, sdk.GridPos]] = []
    x = height = 0
    for panel in panels:
        if x + panel.width > GRID_WIDTH:
            x, y, height = 0, y + height, 0
        found.append((panel, sdk.GridPos(h=panel.height, w=panel.width, x=x, y=y)))
        x += panel.width
        height = max(height, panel.height)
    return found, y + height


def layout(
    rows: Iterable[Row], runbook: Mapping[str, int] | None = None
) -> list[sdk.Panel | sdk.RowPanel]:
    """Return rows and panels; a row's title takes a whole line, a closed row holds its panels."""
    found: list[sdk.Panel | sdk.RowPanel] = []
    y = 0
    number = 1
    for row in rows:
        closed = row.state == "closed"
        title = sdk.RowPanel(
            collapsed=closed,
            title=row.title,
            id_val=number,
            grid_pos=sdk.GridPos(h=1, w=GRID_WIDTH, x=0, y=y),
            panels=[],
        )
        found.append(title)
        places, below = placed(row.panels, y + 1)
        panels = [
            drawn(panel, number + i, place, runbook or {})
            for i, (panel, place) in enumerate(places, start=1)
        ]
        number += 1 + len(panels)
        if closed:
            title.panels = panels
        else:
            found += panels
        y = y + 1 if closed else below
    return found


def runbook_numbers() -> dict[str, int]:
    """Return the number of each alert's panel in the runbook's dashboard."""
    return {
        panel.title: panel.id_val
        for panel in layout(RUNBOOK.rows)
        if isinstance(panel, sdk.Panel) and panel.title and panel.id_val
    }


def links(board: Board) -> list[sdk.DashboardLink]:
    """Return the links to the other dashboards and to the runbook, with time and choices kept."""
    found = [
        sdk.DashboardLink(
            title="JumpLoRA",
            type_val=sdk.DashboardLinkType.DASHBOARDS,
            icon="external link",
            tags=["jumplora"],
            include_vars=True,
            keep_time=True,
        )
    ]
    if board.uid != RUNBOOK.uid:
        found.append(
            sdk.DashboardLink(
                title="Runbook",
                type_val=sdk.DashboardLinkType.LINK,
                icon="doc",
                tooltip="What to do about each alert",
                url=f"/d/{RUNBOOK.uid}",
                include_vars=True,
                keep_time=True,
            )
        )
    return found


def dashboard(board: Board) -> sdk.Dashboard:
    """Return one whole dashboard. It is not to be edited in Grafana, because it is generated."""
    read = " ".join(query.expr for row in board.rows for p in row.panels for query in p.queries)
    return sdk.Dashboard(
        uid=board.uid,
        title=board.title,
        description=f"{board.description} Generated by deploy/grafana/generate.py.",
        tags=list(board.tags),
        timezone="browser",
        editable=False,
        graph_tooltip=sdk.DashboardCursorSync.CROSSHAIR,
        time=sdk.DashboardDashboardTime("now-1h", "now"),
        refresh="30s",
        version=1,
        panels=layout(board.rows, runbook_numbers()),
        templating=sdk.DashboardDashboardTemplating(variables(read)),
        annotations=sdk.AnnotationContainer([PrometheusMark(mark) for mark in board.marks]),
        links=links(board),
    )


def render(boards: Sequence[Board]) -> dict[str, str]:
    """Return the text of each file by its name, after the check of its metrics."""
    check_metrics(boards, defined_names())
    return {
        f"{board.file}.json": JSONEncoder(indent=1, ensure_ascii=False).encode(dashboard(board))
        + "\n"
        for board in boards
    }


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    """Write or check the files; return the exit status."""
    parser = argparse.ArgumentParser(description="Generate the Grafana dashboards.")
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    check = parser.parse_args(arguments).check
    try:
        texts = render(BOARDS)
    except UnknownMetric as error:
        print(f"generate.py: {error}", file=sys.stderr)
        return 1
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    if check:
        stale = sorted(name for name in {*there, *texts} if there.get(name) != texts.get(name))
        for name in stale:
            print(f"generate.py: {folder / name} is stale, run it without --check", file=sys.stderr)
        return 1 if stale else 0
    folder.mkdir(parents=True, exist_ok=True)
    for name in there.keys() - texts.keys():
        (folder / name).unlink()
    for name, content in texts.items():
        (folder / name).write_text(content, encoding="utf-8")
    return 0
