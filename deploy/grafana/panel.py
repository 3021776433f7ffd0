"""What the dashboards are made of, before layout: boards of rows of panels with their queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["stat", "timeseries", "table", "heatmap", "text"]
# The names that grafana_foundation_sdk.models.units has for what we show.
Unit = Literal["short", "s", "bytes", "percentunit", "reqps"]
# What a server without it has no data for.
Need = Literal["nothing", "accelerator"]
Colour = Literal["text", "green", "yellow", "orange", "red", "blue", "purple"]


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and the name of its lines."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """A colour for all values, and others from given values on, ascending."""

    base: Colour
    steps: tuple[tuple[float, Colour], ...] = ()


# For numbers of which no value is bad: bytes and counts without a limit.
NEUTRAL = Thresholds("text")


@dataclass(frozen=True, slots=True)
class Said:
    """The words and the colour for one value, as for 0 and 1 of what is or is not so."""

    value: int
    text: str
    colour: Colour


@dataclass(frozen=True, slots=True)
class ColumnLink:
    """Where a click on a table's column leads."""

    column: str
    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `width` and `height` are Grafana's grid units, 24 to a row.

    `needs` names what a server without it has no data for; `alerts` are the rules that the panel
    belongs to, each linked to its place in the runbook.
    """

    title: str
    kind: Kind
    unit: Unit
    description: str
    queries: tuple[Query, ...]
    width: int = 8
    height: int = 8
    no_value: str = "No traffic"
    by_task: Literal["by task", "overall"] = "overall"
    stack: Literal["stacked", "lines"] = "lines"
    axis: Literal["from zero", "signed"] = "from zero"
    needs: Need = "nothing"
    thresholds: Thresholds = NEUTRAL
    says: tuple[Said, ...] = ()
    alerts: tuple[str, ...] = ()
    links: tuple[ColumnLink, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A titled group of panels; a closed one loads when it is opened."""

    title: str
    panels: tuple[Panel, ...]
    state: Literal["open", "closed"] = "open"


@dataclass(frozen=True, slots=True)
class Mark:
    """Events drawn over the graphs: an expression that is above 0 while, or just after, they are.

    `time` says whether the value itself is when it happened, in milliseconds.
    """

    name: str
    expr: str
    title: str
    text: str
    colour: Colour
    tags: str = ""
    time: Literal["of the sample", "the value"] = "of the sample"
    needs: Literal["nothing", "firing alert"] = "nothing"


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard, and the name of its file without the ending."""

    uid: str
    file: str
    title: str
    description: str
    rows: tuple[Row, ...]
    marks: tuple[Mark, ...] = ()
    tags: tuple[str, ...] = field(default=("jumplora",))


def stat(
    title: str,
    unit: Unit,
    description: str,
    expr: str,
    thresholds: Thresholds = NEUTRAL,
    *,
    no_value: str = "No traffic",
    says: tuple[Said, ...] = (),
    alerts: tuple[str, ...] = (),
    needs: Need = "nothing",
) -> Panel:
    """Return a panel of one number at this moment."""
    return Panel(
        title, "stat", unit, description, (Query(expr),), width=4, height=4, no_value=no_value,
        thresholds=thresholds, says=says, alerts=alerts, needs=needs,
    )  # fmt: skip
