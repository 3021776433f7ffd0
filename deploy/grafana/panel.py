"""What a dashboard is made of, before layout: rows of panels with their queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["stat", "timeseries", "table", "heatmap"]


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and the name of its lines."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `width` and `height` are Grafana's grid units, 24 to a row."""

    title: str
    kind: Kind
    unit: str
    description: str
    queries: tuple[Query, ...]
    width: int = 8
    height: int = 8
    no_value: str = "No traffic"
    by_task: Literal["by task", "overall"] = "overall"
    stack: Literal["stacked", "lines"] = "lines"
    axis: Literal["from zero", "signed"] = "from zero"
    needs: Literal["nothing", "accelerator"] = "nothing"


@dataclass(frozen=True, slots=True)
class Row:
    """A titled group of panels."""

    title: str
    panels: tuple[Panel, ...]
