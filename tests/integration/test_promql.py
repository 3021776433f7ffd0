"""The shapes of PromQL that the dashboard is written in, read back by a parser of the language."""

from __future__ import annotations

import math
from typing import Any

import promql_parser
import pytest
from deploy.grafana import dashboard
from deploy.grafana.panel import Panel, Query, Row
from deploy.grafana.promql import mean, metric_names, quantile, rate, share
from hypothesis import given
from hypothesis import strategies as st

names = st.from_regex(r"jumplora_[a-z]{1,9}_(total|seconds)", fullmatch=True)
labels = st.sampled_from(["", "task_id", "task_id, reason"])


def parsed(expr: str) -> Any:
    """As Grafana sends it, with all tasks chosen."""
    return promql_parser.parse(expr.replace("$__rate_interval", "1m").replace("$task_id", ".*"))


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
    assert "task_id" in str(matrix)
    assert metric_names(rate(name, by)) == {name}


@given(names)
def test_a_rate_without_a_selector_reads_all_series(name: str) -> None:
    found = rate(name, "", "")
    assert found == f"sum (rate({name}[$__rate_interval]))"
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
    _, found = dashboard.layout([Row("R", (given_panel,))])
    return found


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
def test_nothing_is_told_in_words(kind: str) -> None:
    found = placed(panel(kind=kind, no_value="No canaries"))
    defaults = found["fieldConfig"]["defaults"]
    assert defaults["noValue"] == "No canaries"
    (mapping,) = defaults["mappings"]
    assert mapping["options"] == {"match": "null+nan", "result": {"text": "No canaries"}}
    assert found["type"] == kind
    assert ("custom" in defaults) == (kind == "timeseries")
