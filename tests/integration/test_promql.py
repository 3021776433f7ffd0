"""The shapes of PromQL that the dashboards are written in, read back by a parser of it."""

from __future__ import annotations

import json
import math
from typing import Any

import promql_parser
import pytest
from deploy.grafana import dashboard
from deploy.grafana.panel import ColumnLink, Panel, Query, Row, Said, Thresholds
from deploy.grafana.promql import SERVERS, mean, metric_names, quantile, rate, share
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from hypothesis import given
from hypothesis import strategies as st

from integration.grafana import filled_in

names = st.from_regex(r"jumplora_[a-z]{1,9}_(total|seconds)", fullmatch=True)
labels = st.sampled_from(["", "task_id", "task_id, reason"])


def parsed(expr: str) -> Any:
    return promql_parser.parse(filled_in(expr))


def inner(node: Any, *path: str) -> Any:
    for name in path:
        node = getattr(node, name)
    return node


@given(names, labels)
def test_a_rate_is_a_sum_over_the_chosen_tasks(name: str, by: str) -> None:
    found = parsed(rate(name, by))
    assert isinstance(found, promql_parser.AggregateExpr)
    assert str(found.op) == "sum"
    grouping = found.modifier.labels if found.modifier else []
    assert [*grouping] == [label for label in by.split(", ") if label]
    (matrix,) = inner(found, "expr", "args")
    assert matrix.vector_selector.name == name
    assert {"job", "instance", "namespace", "task_id"} <= {
        matcher.name for matcher in matrix.vector_selector.matchers.matchers
    }
    assert metric_names(rate(name, by)) == {name}


@given(names)
def test_a_rate_of_a_server_reads_all_tasks(name: str) -> None:
    found = rate(name, "", SERVERS)
    assert "task_id" not in found
    assert inner(parsed(found), "expr", "args")[0].vector_selector.name == name


@given(st.sampled_from([0.5, 0.95, 0.99]), names, labels)
def test_a_quantile_keeps_the_buckets(q: float, name: str, by: str) -> None:
    found = parsed(quantile(q, name, by))
    assert found.func.name == "histogram_quantile"
    share_, total = found.args
    assert math.isclose(share_.val, q)
    assert total.modifier.labels[0] == "le"
    assert [*total.modifier.labels[1:]] == [label for label in by.split(", ") if label]
    assert metric_names(quantile(q, name, by)) == {f"{name}_bucket"}


@given(names, names)
def test_a_share_of_nothing_has_no_value(part: str, whole: str) -> None:
    found = parsed(share(rate(part), rate(whole)))
    assert str(found.op) == "/"
    assert str(found.rhs.expr.op) == ">"
    assert found.rhs.expr.rhs.val == 0
    assert metric_names(share(rate(part), rate(whole))) == {part, whole}


@given(names, labels)
def test_a_mean_is_the_sum_over_the_count(name: str, by: str) -> None:
    found = mean(name, by)
    assert metric_names(found) == {f"{name}_sum", f"{name}_count"}
    numerator, denominator = found.split(" / ")
    assert f"{name}_sum" in numerator
    assert f"{name}_count" in denominator
    parsed(found)


def panel(**more: Any) -> Panel:
    chosen: dict[str, Any] = {
        "title": "P", "kind": "timeseries", "unit": "s", "description": "d",
        "queries": (Query("up", "a"), Query("up")),
    }  # fmt: skip
    return Panel(**(chosen | more))


def placed(given_panel: Panel) -> dict[str, Any]:
    """Return the panel as the file has it."""
    _, found = dashboard.layout([Row("R", (given_panel,))], {"JumpLoRADown": 7})
    read: dict[str, Any] = json.loads(JSONEncoder().encode(found))
    return read


def test_queries_have_letters_and_names() -> None:
    found = placed(panel())["targets"]
    assert [target["refId"] for target in found] == ["A", "B"]
    assert [target["legendFormat"] for target in found] == ["a", "__auto"]
    assert {(target["range"], target["instant"]) for target in found} == {(True, False)}
    assert {target["format"] for target in found} == {"time_series"}


@pytest.mark.parametrize(
    ("stack", "axis", "fill", "mode", "least"),
    [
        ("lines", "from zero", 0, "none", 0),
        ("stacked", "from zero", 20, "normal", 0),
        ("lines", "signed", 0, "none", None),
    ],
)
def test_lines(stack: str, axis: str, fill: int, mode: str, least: int | None) -> None:
    defaults = placed(panel(stack=stack, axis=axis))["fieldConfig"]["defaults"]
    assert defaults["custom"]["fillOpacity"] == fill
    assert defaults["custom"]["stacking"]["mode"] == mode
    assert defaults.get("min") == least


def test_a_table_is_one_moment_with_a_line_a_task() -> None:
    queries = (Query("a", "p95"), Query("b", "Version"), Query("c", "Tasks"))
    found = placed(panel(kind="table", queries=queries))
    assert {(target["range"], target["instant"]) for target in found["targets"]} == {(False, True)}
    merge, organize = found["transformations"]
    assert merge["id"] == "merge"
    assert organize["options"]["renameByName"] == {
        "Value #A": "p95", "Value #B": "Version", "Value #C": "Tasks",
    }  # fmt: skip
    assert organize["options"]["excludeByName"] == {"Time": True, "Value #B": True}
    (unit,) = found["fieldConfig"]["overrides"]
    assert unit["matcher"]["options"] == "p95"
    assert unit["properties"] == [{"id": "unit", "value": "s"}]


def test_a_table_of_one_query_has_one_value_column() -> None:
    found = placed(panel(kind="table", queries=(Query("a", "Memory"),)))
    assert found["transformations"][1]["options"]["renameByName"] == {"Value": "Memory"}


@pytest.mark.parametrize("kind", ["stat", "heatmap", "timeseries", "table"])
def test_nothing_is_said_in_words(kind: str) -> None:
    found = placed(panel(kind=kind, no_value="No canaries"))
    defaults = found["fieldConfig"]["defaults"]
    assert defaults["noValue"] == "No canaries"
    (mapping,) = defaults["mappings"]
    assert mapping["options"]["match"] == "null+nan"
    assert mapping["options"]["result"] == {"text": "No canaries", "color": "text"}
    assert found["type"] == kind
    assert ("thresholds" in defaults) == (kind == "stat")


@pytest.mark.parametrize(
    ("thresholds", "says", "mode"),
    [
        pytest.param(Thresholds("text"), (), "none", id="neutral"),
        pytest.param(Thresholds("green", ((1, "red"),)), (), "value", id="a number"),
        pytest.param(
            Thresholds("green", ((1, "red"),)),
            (Said(0, "Fine", "green"),),
            "background",
            id="words",
        ),
    ],
)
def test_a_colour_is_as_loud_as_it_means(
    thresholds: Thresholds, says: tuple[Said, ...], mode: str
) -> None:
    found = placed(panel(kind="stat", thresholds=thresholds, says=says))
    assert found["options"]["colorMode"] == mode
    steps = found["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps[0] == {"value": None, "color": thresholds.base}
    assert [(step["value"], step["color"]) for step in steps[1:]] == [*thresholds.steps]
    mapped = found["fieldConfig"]["defaults"]["mappings"][:-1]
    assert [mapping["options"] for mapping in mapped] == [
        {str(said.value): {"text": said.text, "color": said.colour}} for said in says
    ]


def test_a_panel_of_an_alert_leads_to_its_place_in_the_runbook() -> None:
    (link,) = placed(panel(alerts=("JumpLoRADown",)))["links"]
    assert link["url"] == "/d/jumplora-runbook?viewPanel=7"
    assert link["keepTime"]
    assert link["includeVars"]


def test_a_column_leads_elsewhere() -> None:
    link = ColumnLink("task_id", "Open", "/d/x")
    (override,) = placed(panel(kind="table", links=(link,)))["fieldConfig"]["overrides"]
    assert override["matcher"] == {"id": "byName", "options": "task_id"}
    assert override["properties"] == [{"id": "links", "value": [{"title": "Open", "url": "/d/x"}]}]


def test_a_text_asks_nothing() -> None:
    found = placed(panel(kind="text", queries=(), text="Look."))
    assert found["options"]["content"] == "Look."
    assert "targets" not in found
    assert "datasource" not in found
