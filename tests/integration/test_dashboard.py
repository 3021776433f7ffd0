"""The dashboards' files: generated, in order, linked, and only over metrics that exist."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from deploy.grafana import dashboard, runbook, variables
from deploy.grafana.boards import BOARDS
from deploy.grafana.panel import Board, Mark, Panel, Query, Row, stat
from deploy.grafana.promql import metric_names
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as sdk
from prometheus_client import CollectorRegistry, generate_latest

from integration.grafana import FILES, Json, filled_in, panels_of
from integration.prometheus_process import ROOT, SHIPPED
from jumplora_server.metrics.table import REQUEST_DURATION, TABLE

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
EXPRS = sorted({expr for board in BOARDS for _, expr in dashboard.queries(board)})
PANELS = [
    pytest.param(panel, id=f"{name} {row}: {panel['title']}")
    for name, board in FILES.items()
    for row, panel in panels_of(board)
]
BOARD = pytest.mark.parametrize("board", FILES.values(), ids=FILES.keys())
# Windows that are the meaning of a number: an objective's hour, the half hour of an alert.
MEANT_WINDOWS = {"[1h]": "burn", "[30m]": "restart", "[$__range]": "servers"}


def one_board(*rows: Row, marks: tuple[Mark, ...] = ()) -> Board:
    return Board("b", "b", "B", "d", rows, marks)


class TestGenerator:
    def test_the_files_are_what_the_generator_writes(self) -> None:
        script = ROOT / "deploy" / "grafana" / "generate.py"
        environment = os.environ | {"PYTHONPATH": str(ROOT / "server")}
        command = [sys.executable, str(script), "--check"]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (result.returncode, result.stderr) == (0, "")

    def test_a_stale_missing_or_left_file_fails_the_check(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert dashboard.main(["--check"], tmp_path) == 1
        assert "overview.json is stale" in capsys.readouterr().err
        assert dashboard.main([], tmp_path) == 0
        assert dashboard.main(["--check"], tmp_path) == 0
        path = tmp_path / "task.json"
        path.write_text(path.read_text().replace("p95", "p59"))
        (tmp_path / "former.json").write_text("{}")
        assert dashboard.main(["--check"], tmp_path) == 1
        assert re.findall(r"(\w+)\.json is stale", capsys.readouterr().err) == ["former", "task"]
        assert dashboard.main([], tmp_path) == 0
        assert sorted(p.stem for p in tmp_path.iterdir()) == sorted(FILES)

    def test_a_metric_that_no_code_defines_fails(self) -> None:
        expr = "sum(rate(jumplora_requests_total[5m])) / sum(jumplora_invented)"
        row = Row("R", (stat("P", "s", "d", expr),))
        expected = r"panel 'P' of row 'R' of 'B' reads jumplora_invented: allowed are"
        with pytest.raises(dashboard.UnknownMetric, match=expected):
            dashboard.render([one_board(row)])

    def test_so_does_a_mark_over_one(self) -> None:
        mark = Mark("M", "jumplora_invented > 0", "t", "t", "red")
        with pytest.raises(
            dashboard.UnknownMetric, match="mark 'M' of 'B' reads jumplora_invented"
        ):
            dashboard.render([one_board(marks=(mark,))])

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
            pytest.param("a offset $__rate_interval or b", {"a", "b"}, id="offset by a variable"),
            pytest.param("sum(a) without (b) or vector(0)", {"a"}, id="trailing"),
            pytest.param("histogram_quantile(0.95, sum(a_bucket))", {"a_bucket"}, id="quantile"),
        ],
    )
    def test_metric_names_of_an_expression(self, expr: str, names: set[str]) -> None:
        assert metric_names(expr) == names

    @pytest.mark.parametrize("expr", EXPRS)
    def test_a_parser_of_promql_reads_the_same_names(self, expr: str) -> None:
        found = {node.name for node in selectors(promql_parser.parse(filled_in(expr)))}
        assert metric_names(expr) == found

    @BOARD
    def test_the_sdk_reads_each_file_as_its_schema(self, board: Json) -> None:
        plugins.register_default_plugins()
        read = json.loads(JSONEncoder().encode(sdk.Dashboard.from_json(board)))
        # Prometheus' fields of annotations are not in the SDK's type: see PrometheusMark.
        marks, read_marks = board["annotations"]["list"], read.pop("annotations")["list"]
        for mark, read_mark in zip(marks, read_marks, strict=True):
            assert mark | read_mark == mark
        assert read == {key: value for key, value in board.items() if key != "annotations"}


def selectors(node: Any) -> list[Any]:
    """Return the selectors below a node of the parser's tree."""
    if isinstance(node, promql_parser.VectorSelector):
        assert node.name is not None, "a selector by labels alone"
        return [node]
    if isinstance(node, promql_parser.MatrixSelector):
        return selectors(node.vector_selector)
    if isinstance(node, promql_parser.Call):
        return [found for argument in node.args for found in selectors(argument)]
    if isinstance(node, promql_parser.BinaryExpr):
        return selectors(node.lhs) + selectors(node.rhs)
    if isinstance(node, promql_parser.AggregateExpr | promql_parser.ParenExpr):
        return selectors(node.expr)
    assert isinstance(node, promql_parser.NumberLiteral), node
    return []


class TestChoices:
    @BOARD
    def test_all_boards_have_the_same(self, board: Json) -> None:
        found = board["templating"]["list"]
        names = ["datasource", "job", "namespace", "instance", "task_id", "slo"]
        assert [v["name"] for v in found] == names
        for variable in found[1:5]:
            assert variable["multi"]
            assert variable["includeAll"]
            assert variable["allValue"] == ".*"  # also matches series without the label
            assert variable["current"]["value"] == ["$__all"]
            assert variable["refresh"] == 2
            assert variable["datasource"] == DATASOURCE

    @BOARD
    def test_those_that_nothing_reads_are_hidden(self, board: Json) -> None:
        exprs = " ".join(t["expr"] for _, p in panels_of(board) for t in p.get("targets", []))
        for variable in board["templating"]["list"][1:]:
            is_read = f"${variable['name']}" in exprs
            assert (variable.get("hide") != 2) == is_read, variable["name"]

    def test_objectives_are_boundaries_as_a_page_writes_them(self) -> None:
        REQUEST_DURATION.histogram(registry := CollectorRegistry()).labels("a").observe(1)
        page = generate_latest(registry).decode()
        assert set(variables.OBJECTIVES) <= set(re.findall(r'le="([^"]+)"', page))
        assert variables.OBJECTIVE in variables.OBJECTIVES

    @pytest.mark.parametrize("expr", EXPRS)
    def test_every_query_keeps_to_the_chosen_servers(self, expr: str) -> None:
        """By its own selectors, or joined to those that do."""
        for node in selectors(promql_parser.parse(expr_for_parser(expr))):
            matchers = {m.name: m.value for m in node.matchers.matchers}
            if node.name == "jumplora_build_info" and not matchers:
                assert "on (job, instance)" in expr
                continue
            assert {"job": "$job", "namespace": "$namespace"}.items() <= {
                name: value.rstrip("|") for name, value in matchers.items()
            }.items(), expr
            assert matchers["instance"] in ("$instance", "$instance|"), expr
            has_task = any(name.endswith("task_id") for name in matchers)
            assert has_task == (node.name in LABELLED_BY_TASK or "$task_id" in expr), expr


def expr_for_parser(expr: str) -> str:
    """Return an expression with windows that the parser reads and variables as they are."""
    return expr.replace("$__rate_interval", "15s").replace("$__range", "1m")


LABELLED_BY_TASK = {
    name
    for instrument in TABLE
    if "task_id" in instrument.labels
    for name in instrument.sample_names()
}


class TestLayout:
    def test_the_dashboards_have_stable_names(self) -> None:
        assert {name: board["uid"] for name, board in FILES.items()} == {
            "overview": "jumplora-overview",
            "task": "jumplora-task",
            "engine": "jumplora-engine",
            "runbook": "jumplora-runbook",
        }
        assert all(len(board["uid"]) <= 40 for board in FILES.values())

    @BOARD
    def test_ids_are_unique(self, board: Json) -> None:
        ids = [panel["id"] for panel in board["panels"]]
        ids += [panel["id"] for row in board["panels"] for panel in row.get("panels", [])]
        assert sorted(ids) == list(range(1, len(ids) + 1))

    @BOARD
    def test_panels_lie_on_the_grid_without_overlap(self, board: Json) -> None:
        closed = [row["panels"] for row in board["panels"] if row.get("panels")]
        for panels in [board["panels"], *closed]:
            cells: set[tuple[int, int]] = set()
            for panel in panels:
                place = panel["gridPos"]
                assert 0 <= place["x"] <= place["x"] + place["w"] <= 24
                columns = range(place["x"], place["x"] + place["w"])
                rows = range(place["y"], place["y"] + place["h"])
                covered = set(itertools.product(columns, rows))
                assert not cells & covered, panel["title"]
                cells |= covered

    @pytest.mark.parametrize("panel", PANELS)
    def test_a_panel_explains_itself(self, panel: Json) -> None:
        assert len(panel["description"]) > 20
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["fieldConfig"]["defaults"]["noValue"]
        if panel["type"] == "text":
            assert len(panel["options"]["content"]) > 40
            return
        assert panel["datasource"] == DATASOURCE
        assert panel["targets"]
        read = set()
        for target in panel["targets"]:
            assert target["datasource"] == DATASOURCE
            for window in set(re.findall(r"\[[^\]]*\]", target["expr"])) - {"[$__rate_interval]"}:
                said = f"{panel['title']} {panel['description']}".lower()
                assert MEANT_WINDOWS[window] in said, "a fixed window ignores the scrape interval"
            read |= metric_names(target["expr"])
        for name in read - {"jumplora_build_info"}:  # a filter, not what is shown
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            assert family in panel["description"], name

    def test_titles_are_unique_within_a_row(self) -> None:
        for board in FILES.values():
            titles = [(row, panel["title"]) for row, panel in panels_of(board)]
            assert len(set(titles)) == len(titles)

    def test_nothing_is_edited_where_it_is_generated(self) -> None:
        assert {board["editable"] for board in FILES.values()} == {False}

    def test_a_row_wider_than_the_grid_wraps(self) -> None:
        panel = Panel("P", "timeseries", "s", "d", (Query("up"),), width=10, height=4)
        wide = replace(panel, width=24)
        rows = [
            Row("R", (panel, panel, wide)),
            Row("C", (panel, wide), "closed"),
            Row("E", (panel,)),
        ]
        found = dashboard.layout(rows)
        assert [places(p) for p in found] == [
            (0, 0),
            (0, 1),
            (10, 1),
            (0, 5),
            (0, 9),
            (0, 10),
            (0, 11),
        ]
        closed = found[4]
        assert isinstance(closed, sdk.RowPanel)
        assert closed.collapsed
        assert [places(p) for p in closed.panels] == [(0, 10), (0, 14)]
        assert [p.id_val for p in closed.panels] == [6, 7]
        assert found[5].id_val == 8


def places(panel: sdk.Panel | sdk.RowPanel) -> tuple[int, int]:
    assert panel.grid_pos is not None
    return panel.grid_pos.x, panel.grid_pos.y


class TestLinks:
    @BOARD
    def test_all_boards_are_linked_with_time_and_choices(self, board: Json) -> None:
        first, *rest = board["links"]
        assert (first["type"], first["tags"]) == ("dashboards", ["jumplora"])
        assert all(link["keepTime"] and link["includeVars"] for link in board["links"])
        is_runbook = board["uid"] == runbook.UID
        assert [link["url"] for link in rest] == ([] if is_runbook else [f"/d/{runbook.UID}"])

    def test_the_table_of_tasks_opens_the_task(self) -> None:
        (table,) = (p for _, p in panels_of(FILES["overview"]) if p["title"] == "Tasks")
        (url,) = urls_of(table)
        assert url.startswith(f"/d/{FILES['task']['uid']}?var-task_id=${{__value.raw")
        kept = set(re.findall(r"\$\{(\w+):queryparam\}", url))
        assert kept == {"datasource", "job", "namespace", "instance", "slo"}
        assert "${__url_time_range}" in url

    def test_every_link_leads_to_a_board(self) -> None:
        uids = {board["uid"] for board in FILES.values()}
        for board in FILES.values():
            for _, panel in panels_of(board):
                urls = urls_of(panel) + [link["url"] for link in panel.get("links", [])]
                assert {re.split(r"[/?]", url)[2] for url in urls} <= uids

    def test_alerts_of_a_panel_lead_to_their_place_in_the_runbook(self) -> None:
        titles = {panel["id"]: panel["title"] for _, panel in panels_of(FILES["runbook"])}
        linked = set()
        for board in FILES.values():
            for _, panel in panels_of(board):
                for link in panel.get("links", []):
                    alert = titles[int(link["url"].split("viewPanel=")[1])]
                    assert link["title"] == f"Runbook: {alert}"
                    linked.add(alert)
        rules = (SHIPPED / "jumplora.rules.yml").read_text(encoding="utf-8")
        alerts = set(re.findall(r"- alert: (\w+)", rules))
        assert alerts == linked, "an alert that no panel shows, or a link to none"
        assert alerts <= set(titles.values()), "an alert without a section of the runbook"


def urls_of(panel: Json) -> list[str]:
    """Return where clicks on columns lead."""
    return [
        link["url"]
        for override in panel["fieldConfig"]["overrides"]
        for setting in override["properties"]
        if setting["id"] == "links"
        for link in setting["value"]
    ]


class TestRunbook:
    TEXT = (
        "# Alerts\n\nWhat.\n\n## JumpLoRAOne\nSee [here](CAPACITY.md#shares)\nand `x`.\n\n"
        "## JumpLoRATwo\nRead [this](https://e.org).\n"
    )

    def test_sections_are_those_of_the_alerts(self) -> None:
        assert runbook.sections(self.TEXT) == {
            "JumpLoRAOne": "See here\nand `x`.",
            "JumpLoRATwo": "Read [this](https://e.org).",
        }


class TestMarks:
    @BOARD
    def test_they_are_of_our_metrics(self, board: Json) -> None:
        for mark in board["annotations"]["list"]:
            assert mark["datasource"] == DATASOURCE
            assert mark["enable"]
            assert mark["titleFormat"]
            assert mark["textFormat"]
            assert metric_names(mark["expr"])
            assert mark["useValueForTime"] == ("start_time" in mark["expr"])
