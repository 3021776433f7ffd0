"""The dashboards' files as Grafana reads them, and their expressions as Grafana sends them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from deploy.grafana import dashboard

Json = dict[str, Any]

FILES: dict[str, Json] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(dashboard.FOLDER.glob("*.json"))
}
# What "All" sends, and windows that fit a scrape once a second.
ALL = {
    "__rate_interval": "15s",
    "__range": "1m",
    "job": ".*",
    "instance": ".*",
    "namespace": ".*",
    "task_id": ".*",
    "slo": "1.0",
}


def panels_of(board: Json) -> Iterator[tuple[str, Json]]:
    """Yield each panel with the title of its row, those of closed rows as well."""
    row = ""
    for panel in board["panels"]:
        if panel["type"] != "row":
            yield row, panel
            continue
        row = panel["title"]
        for nested in panel["panels"]:
            yield row, nested


def filled_in(expr: str, **chosen: str) -> str:
    """Return an expression as Grafana sends it, with all servers and tasks but those chosen."""
    for name, value in sorted((ALL | chosen).items(), key=lambda item: -len(item[0])):
        expr = expr.replace(f"${name}", value)
    return expr
