"""The dashboard's file: the rows laid out as Grafana's JSON, and the check of their metrics.

Knows Grafana's grid and field names; what is shown is in the modules `rows_*`.
"""

from __future__ import annotations

import argparse
import json
import string
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deploy.grafana.panel import Panel, Row
from deploy.grafana.promql import metric_names
from deploy.grafana.rows_adapters import ADAPTERS, ENGINE, MEMORY
from deploy.grafana.rows_quality import QUALITY
from deploy.grafana.rows_requests import LATENCY, NOW, TRAFFIC
from prometheus_client import CollectorRegistry

from jumplora_server.metrics.metrics import Metrics
from jumplora_server.metrics.table import TABLE

ROWS = (NOW, LATENCY, TRAFFIC, MEMORY, ADAPTERS, QUALITY, ENGINE)
PATH = Path(__file__).parent / "dashboards" / "jumplora.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
GRID_WIDTH = 24

# Units of the per-task table, by the name of the query.
_COLUMN_UNITS = {
    "Requests/s": "reqps",
    "p50": "s",
    "p95": "s",
    "p99": "s",
    "Failed": "percentunit",
    "Memory": "bytes",
    "Density": "percentunit",
}

Json = dict[str, Any]


class UnknownMetric(Exception):
    """A query names a metric that no code defines."""


def defined_names() -> set[str]:
    """Return every name a query may use: the table's, the process's, and Prometheus' own `up`."""
    names = {name for instrument in TABLE for name in instrument.sample_names()}
    for family in Metrics(CollectorRegistry()).registry.collect():
        names.update(sample.name for sample in family.samples)
    return names | {"up"}


def check_metrics(rows: Iterable[Row], defined: set[str]) -> None:
    """Raise UnknownMetric, naming panel and metrics, unless every query reads defined ones."""
    for row in rows:
        for panel in row.panels:
            for query in panel.queries:
                unknown = sorted(metric_names(query.expr) - defined)
                if unknown:
                    raise UnknownMetric(
                        f"panel {panel.title!r} of row {row.title!r} reads {', '.join(unknown)}: "
                        "allowed are the names in jumplora_server/metrics/table.py, process_*, "
                        "python_* and up"
                    )


def targets(panel: Panel) -> list[Json]:
    """Return the panel's queries; tables ask for one moment, the others for a range."""
    moment = panel.kind == "table"
    return [
        {
            "refId": string.ascii_uppercase[i],
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "legendFormat": query.legend or "__auto",
            "format": {"table": "table", "heatmap": "heatmap"}.get(panel.kind, "time_series"),
            "instant": moment,
            "range": not moment,
        }
        for i, query in enumerate(panel.queries)
    ]


def options(panel: Panel) -> Json:
    """Return the options of the panel's kind."""
    if panel.kind == "stat":
        return {
            "colorMode": "value",
            "graphMode": "area",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        }
    if panel.kind == "heatmap":
        return {
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Spectral", "steps": 64, "reverse": True},
            "yAxis": {"unit": panel.unit},
            "tooltip": {"mode": "single", "yHistogram": True},
        }
    if panel.kind == "table":
        return {"showHeader": True, "sortBy": [{"displayName": "task_id", "desc": False}]}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def table_columns(panel: Panel) -> Json:
    """Return transformations and units that make one line a task of a table's queries."""
    names = {
        f"Value #{string.ascii_uppercase[i]}": query.legend for i, query in enumerate(panel.queries)
    }
    if len(panel.queries) == 1:
        names["Value"] = names.pop("Value #A")
    hidden = {"Time": True}
    version = [column for column, name in names.items() if name == "Version"]
    hidden.update(dict.fromkeys(version, True))  # always 1; the label beside it is what matters
    return {
        "transformations": [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": hidden, "renameByName": names}},
        ],
        "overrides": [
            {
                "matcher": {"id": "byName", "options": name},
                "properties": [{"id": "unit", "value": _COLUMN_UNITS[name]}],
            }
            for name in names.values()
            if name in _COLUMN_UNITS
        ],
    }


def panel_json(panel: Panel, number: int, x: int, y: int) -> Json:
    """Return one panel at a place of the grid."""
    columns = table_columns(panel) if panel.kind == "table" else {}
    # Quantiles over no observations are NaN, which Grafana does not count as "no value".
    nothing = {"match": "null+nan", "result": {"text": panel.no_value}}
    defaults: Json = {
        "unit": panel.unit,
        "noValue": panel.no_value,
        "mappings": [{"type": "special", "options": nothing}],
    }
    if panel.kind == "timeseries":
        stacked = panel.stack == "stacked"
        if panel.axis == "from zero":
            defaults["min"] = 0
        defaults["custom"] = {
            "drawStyle": "line",
            "fillOpacity": 20 if stacked else 0,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": defaults, "overrides": columns.get("overrides", [])},
        "options": options(panel),
        "targets": targets(panel),
        "transformations": columns.get("transformations", []),
    }


def layout(rows: Iterable[Row]) -> list[Json]:
    """Place the panels left to right, top to bottom; a row's title takes a whole line."""
    placed: list[Json] = []
    y = 0
    for row in rows:
        placed.append(
            {
                "id": len(placed) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": GRID_WIDTH, "h": 1},
                "panels": [],
            }
        )
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > GRID_WIDTH:
                x, y, height = 0, y + height, 0
            placed.append(panel_json(panel, len(placed) + 1, x, y))
            x += panel.width
            height = max(height, panel.height)
        y += height
    return placed


def variables() -> list[Json]:
    """Return the two choices at the top: the data source and the tasks."""
    query = "label_values(jumplora_requests_total, task_id)"
    return [
        {
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "refresh": 1,
            "multi": False,
            "includeAll": False,
        },
        {
            "name": "task_id",
            "label": "Task",
            "type": "query",
            "datasource": DATASOURCE,
            "definition": query,
            "query": {"qryType": 1, "query": query, "refId": "task_id"},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        },
    ]


def dashboard(rows: Sequence[Row]) -> Json:
    """Return the whole dashboard."""
    return {
        "id": None,
        "uid": "jumplora-tasks",
        "title": "JumpLoRA: tasks",
        "description": "Latency and memory of every task. Generated by deploy/grafana/generate.py.",
        "tags": ["jumplora"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": variables()},
        "panels": layout(rows),
    }


def render(rows: Sequence[Row]) -> str:
    """Return the file's text, after the check of its metrics."""
    check_metrics(rows, defined_names())
    return json.dumps(dashboard(rows), indent=1, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str] | None = None, path: Path = PATH) -> int:
    """Write or check the file; return the exit status."""
    parser = argparse.ArgumentParser(description="Generate the Grafana dashboard.")
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    check = parser.parse_args(arguments).check
    try:
        text = render(ROWS)
    except UnknownMetric as error:
        print(f"generate.py: {error}", file=sys.stderr)
        return 1
    if not check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return 0
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        print(f"generate.py: {path} is stale, run it without --check", file=sys.stderr)
        return 1
    return 0
