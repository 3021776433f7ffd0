"""The dashboard's file: generated, in order, and only over metrics that exist."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from deploy.grafana import dashboard
from deploy.grafana.panel import Panel, Query, Row
from deploy.grafana.promql import metric_names

from integration.prometheus_process import ROOT

DASHBOARD: dict[str, Any] = json.loads(dashboard.PATH.read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
QUERIES = [query for row in dashboard.ROWS for panel in row.panels for query in panel.queries]


def filled_in(expr: str) -> str:
    """Return an expression as Grafana sends it, with all tasks chosen."""
    return expr.replace("$__rate_interval", "15s").replace("$task_id", ".*")


class TestGenerator:
    def test_the_file_is_what_the_generator_writes(self) -> None:
        script = ROOT / "deploy" / "grafana" / "generate.py"
        environment = os.environ | {"PYTHONPATH": str(ROOT / "server")}
        command = [sys.executable, str(script), "--check"]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (result.returncode, result.stderr) == (0, "")

    def test_a_stale_file_fails_the_check(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "jumplora.json"
        assert dashboard.main(["--check"], path) == 1
        assert "stale" in capsys.readouterr().err
        assert dashboard.main([], path) == 0
        assert dashboard.main(["--check"], path) == 0
        path.write_text(path.read_text().replace("p95", "p59"))
        assert dashboard.main(["--check"], path) == 1

    def test_a_metric_that_no_code_defines_fails(self) -> None:
        query = Query("sum(rate(jumplora_requests_total[5m])) / sum(jumplora_invented)")
        row = Row("R", (Panel("P", "stat", "s", "d", (query,)),))
        expected = r"panel 'P' of row 'R' reads jumplora_invented: allowed are"
        with pytest.raises(dashboard.UnknownMetric, match=expected):
            dashboard.render([row])

    def test_the_wrong_suffix_of_a_histogram_fails(self) -> None:
        defined = dashboard.defined_names()
        assert "jumplora_batch_rows_sum" in defined
        assert "jumplora_batch_rows" not in defined

    @pytest.mark.parametrize(
        ("expr", "names"),
        [
            pytest.param("up", {"up"}, id="bare"),
            pytest.param('sum by (a, le) (rate(x_total{b=~"c|d"}[5m]))', {"x_total"}, id="sum by"),
            pytest.param("a / on (job) group_left (b) c", {"a", "c"}, id="join"),
            pytest.param("a and on (job) b:c offset 5m > 1e3", {"a", "b:c"}, id="offset"),
            pytest.param("sum(a) without (b) or vector(0)", {"a"}, id="trailing"),
            pytest.param("histogram_quantile(0.95, sum(a_bucket))", {"a_bucket"}, id="quantile"),
        ],
    )
    def test_metric_names_of_an_expression(self, expr: str, names: set[str]) -> None:
        assert metric_names(expr) == names

    @pytest.mark.parametrize("expr", sorted({filled_in(query.expr) for query in QUERIES}))
    def test_a_parser_of_promql_reads_the_same_names(self, expr: str) -> None:
        assert metric_names(expr) == selectors(promql_parser.parse(expr))


def selectors(node: Any) -> set[str]:
    """Return the metric names below a node of the parser's tree."""
    if isinstance(node, promql_parser.VectorSelector):
        assert node.name is not None, "a selector by labels alone"
        return {node.name}
    if isinstance(node, promql_parser.MatrixSelector):
        return selectors(node.vector_selector)
    if isinstance(node, promql_parser.Call):
        return set().union(*map(selectors, node.args))
    if isinstance(node, promql_parser.BinaryExpr):
        return selectors(node.lhs) | selectors(node.rhs)
    if isinstance(node, promql_parser.AggregateExpr | promql_parser.ParenExpr):
        return selectors(node.expr)
    assert isinstance(node, promql_parser.NumberLiteral), node
    return set()


class TestLayout:
    def test_the_dashboard_has_a_stable_name(self) -> None:
        assert DASHBOARD["uid"] == "jumplora-tasks"
        assert DASHBOARD["id"] is None

    def test_choices_are_the_data_source_and_the_task(self) -> None:
        variables = DASHBOARD["templating"]["list"]
        assert [v["name"] for v in variables] == ["datasource", "task_id"]
        assert variables[1]["multi"]
        assert variables[1]["allValue"] == ".*"

    def test_ids_are_unique(self) -> None:
        ids = [panel["id"] for panel in DASHBOARD["panels"]]
        assert len(set(ids)) == len(ids)

    def test_panels_lie_on_the_grid_without_overlap(self) -> None:
        cells: set[tuple[int, int]] = set()
        for panel in DASHBOARD["panels"]:
            place = panel["gridPos"]
            assert 0 <= place["x"] <= place["x"] + place["w"] <= 24
            columns = range(place["x"], place["x"] + place["w"])
            covered = set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
            assert not cells & covered, panel["title"]
            cells |= covered

    @pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"{panel['id']} {panel['title']}")
    def test_a_panel_explains_itself(self, panel: dict[str, Any]) -> None:
        assert len(panel["description"]) > 20
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["fieldConfig"]["defaults"]["noValue"]
        assert panel["datasource"] == DATASOURCE
        assert panel["targets"]
        read = set()
        for target in panel["targets"]:
            assert target["datasource"] == DATASOURCE
            windows = set(promql_windows(target["expr"]))
            assert windows <= {"$__rate_interval"}, "a fixed window ignores the scrape interval"
            read |= metric_names(target["expr"])
        for name in read - {"jumplora_build_info"}:  # a filter, not what is shown
            family = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
            assert family in panel["description"], name

    def test_titles_are_unique_within_a_row(self) -> None:
        for row in dashboard.ROWS:
            titles = [panel.title for panel in row.panels]
            assert len(set(titles)) == len(titles)

    def test_a_row_wider_than_the_grid_wraps(self) -> None:
        panel = Panel("P", "stat", "s", "d", (Query("up"),), width=10, height=4)
        placed = dashboard.layout([Row("R", (panel, panel, replace(panel, width=24)))])
        assert [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in placed] == [
            (0, 0),
            (0, 1),
            (10, 1),
            (0, 5),
        ]


def promql_windows(expr: str) -> list[str]:
    """Return what stands in square brackets."""
    return [part.split("]")[0] for part in expr.split("[")[1:]]
