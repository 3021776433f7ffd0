"""The choices at the top. All dashboards have the same, so that a link keeps them."""

from __future__ import annotations

from deploy.grafana.promql import SERVERS
from grafana_foundation_sdk.models import dashboard as sdk

from jumplora_server.metrics.table import LATENCY_SECONDS

DATASOURCE = sdk.DataSourceRef(type_val="prometheus", uid="${datasource}")
# Boundaries of the latency buckets as Prometheus' client writes them: le="1.0".
OBJECTIVES = tuple(str(bound) for bound in LATENCY_SECONDS if 0.1 <= bound <= 30)
OBJECTIVE = "1.0"

# By the name of the variable: its label, and the query that finds what there is to choose. A
# narrower choice follows from a wider one.
QUERIES = {
    "job": ("Job", "label_values(jumplora_build_info, job)"),
    "namespace": (
        "Namespace",
        'label_values(jumplora_build_info{job=~"$job"}, namespace)',
    ),
    "instance": (
        "Instance",
        'label_values(jumplora_build_info{job=~"$job", namespace=~"$namespace"}, instance)',
    ),
    "task_id": ("Task", f"label_values(jumplora_requests_total{{{SERVERS}}}, task_id)"),
}


def _datasource() -> sdk.VariableModel:
    return sdk.VariableModel(
        type_val=sdk.VariableType.DATASOURCE,
        name="datasource",
        label="Data source",
        query="prometheus",
        refresh=sdk.VariableRefresh.ON_DASHBOARD_LOAD,
    )


def _queried(name: str, label: str, query: str) -> sdk.VariableModel:
    return sdk.VariableModel(
        type_val=sdk.VariableType.QUERY,
        name=name,
        label=label,
        datasource=DATASOURCE,
        query={"qryType": 1, "query": query, "refId": name},
        refresh=sdk.VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=sdk.VariableSort.ALPHABETICAL_ASC,
        multi=True,
        include_all=True,
        all_value=".*",
        current=sdk.VariableOption(selected=True, text=["All"], value=["$__all"]),
    )


def _objective() -> sdk.VariableModel:
    return sdk.VariableModel(
        type_val=sdk.VariableType.CUSTOM,
        name="slo",
        label="Objective (s)",
        description="Within how many seconds a request should be answered: a bucket's boundary.",
        query=",".join(OBJECTIVES),
        options=[
            sdk.VariableOption(selected=value == OBJECTIVE, text=value, value=value)
            for value in OBJECTIVES
        ],
        current=sdk.VariableOption(selected=True, text=OBJECTIVE, value=OBJECTIVE),
        allow_custom_value=False,
    )


def variables(queries: str) -> list[sdk.VariableModel]:
    """Return all choices; those that none of a dashboard's queries reads are hidden."""
    chosen = [_datasource(), *(_queried(name, *what) for name, what in QUERIES.items())]
    chosen.append(_objective())
    for variable in chosen:
        if variable.name != "datasource" and f"${variable.name}" not in queries:
            variable.hide = sdk.VariableHide.HIDE_VARIABLE
    return chosen
