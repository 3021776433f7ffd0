"""One panel as Grafana's JSON has it, in the types of grafana-foundation-sdk.

Knows Grafana's options of each kind of panel; what is shown is in the modules `panels_*`.
"""

from __future__ import annotations

import string
from collections.abc import Mapping

from deploy.grafana.panel import NEUTRAL, Panel, Said
from deploy.grafana.variables import DATASOURCE
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import (
    common,
    heatmap,
    prometheus,
    stat,
    table,
    text,
    timeseries,
    units,
)
from grafana_foundation_sdk.models import dashboard as sdk

# Units of the per-task table, by the name of the query.
_COLUMN_UNITS = {
    "Requests/s": units.RequestsPerSecond,
    "p50": units.Seconds,
    "p95": units.Seconds,
    "p99": units.Seconds,
    "Failed": units.PercentUnit,
    "Memory": units.BytesIEC,
    "Density": units.PercentUnit,
}
# Columns of which the value is always 1; the labels beside them are what matters.
_MARKERS = {"Version", "Alert"}
_FORMATS = {
    "table": prometheus.PromQueryFormat.TABLE,
    "heatmap": prometheus.PromQueryFormat.HEATMAP,
}


def drawn(panel: Panel, number: int, place: sdk.GridPos, runbook: Mapping[str, int]) -> sdk.Panel:
    """Return the panel at its place; `runbook` has the number of the panel of each alert."""
    found = sdk.Panel(
        type_val=panel.kind,
        id_val=number,
        title=panel.title,
        description=panel.description,
        grid_pos=place,
        options=_options(panel),
        field_config=sdk.FieldConfigSource(defaults=_field(panel), overrides=_overrides(panel)),
        links=[_to_runbook(alert, runbook[alert]) for alert in panel.alerts] or None,
    )
    if panel.kind != "text":
        found.datasource = DATASOURCE
        found.targets = _targets(panel)
        found.transformations = _transformations(panel)
    return found


def _to_runbook(alert: str, number: int) -> sdk.DashboardLink:
    return sdk.DashboardLink(
        title=f"Runbook: {alert}",
        type_val=sdk.DashboardLinkType.LINK,
        url=f"/d/jumplora-runbook?viewPanel={number}",
        include_vars=True,
        keep_time=True,
    )


def _targets(panel: Panel) -> list[Dataquery]:
    """Return the queries; numbers and tables ask for one moment, graphs for a range.

    A number over a range would be the last one that there was, also where there is none any more.
    """
    moment = panel.kind in ("table", "stat")
    return [
        prometheus.Dataquery(
            expr=query.expr,
            ref_id=string.ascii_uppercase[i],
            legend_format=query.legend or "__auto",
            format_val=_FORMATS.get(panel.kind, prometheus.PromQueryFormat.TIME_SERIES),
            editor_mode=prometheus.QueryEditorMode.CODE,
            instant=moment,
            range_val=not moment,
            datasource=DATASOURCE,
        )
        for i, query in enumerate(panel.queries)
    ]


def colour_mode(panel: Panel) -> common.BigValueColorMode:
    """Return how loud a number's colour is: none, the digits, or for words the whole panel."""
    if panel.thresholds == NEUTRAL:
        return common.BigValueColorMode.NONE
    return common.BigValueColorMode.BACKGROUND if panel.says else common.BigValueColorMode.VALUE


def _options(panel: Panel) -> object:
    if panel.kind == "stat":
        return stat.Options(
            color_mode=colour_mode(panel),
            graph_mode=common.BigValueGraphMode.NONE,
            reduce_options=common.ReduceDataOptions(calcs=["lastNotNull"], fields="", values=False),
        )
    if panel.kind == "heatmap":
        colours = heatmap.HeatmapColorOptions(
            mode=heatmap.HeatmapColorMode.SCHEME, scheme="Spectral", steps=64, reverse=True
        )
        return heatmap.Options(
            calculate=False,
            color=colours,
            y_axis=heatmap.YAxisConfig(unit=panel.unit),
            tooltip=heatmap.HeatmapTooltip(mode=common.TooltipDisplayMode.SINGLE, y_histogram=True),
        )
    if panel.kind == "table":
        return table.Options(sort_by=[common.TableSortByFieldState(_sorted_by(panel), False)])
    if panel.kind == "text":
        return text.Options(mode=text.TextMode.MARKDOWN, content=panel.text)
    return timeseries.Options(
        legend=common.VizLegendOptions(
            display_mode=common.LegendDisplayMode.LIST,
            placement=common.LegendPlacement.BOTTOM,
            show_legend=True,
        ),
        tooltip=common.VizTooltipOptions(
            mode=common.TooltipDisplayMode.MULTI, sort=common.SortOrder.DESCENDING
        ),
    )


def _sorted_by(panel: Panel) -> str:
    return panel.links[0].column if panel.links else "task_id"


def _mapped(said: Said) -> sdk.ValueMap:
    return sdk.ValueMap({str(said.value): sdk.ValueMappingResult(said.text, said.colour)})


def _field(panel: Panel) -> sdk.FieldConfig:
    # Quantiles over no observations are NaN, which Grafana does not count as "no value".
    nothing = sdk.DashboardSpecialValueMapOptions(
        match=sdk.SpecialValueMatch.NULL_AND_NAN,
        result=sdk.ValueMappingResult(text=panel.no_value, color="text"),
    )
    field = sdk.FieldConfig(
        unit=panel.unit,
        no_value=panel.no_value,
        mappings=[*map(_mapped, panel.says), sdk.SpecialValueMap(nothing)],
    )
    if panel.kind == "stat":
        field.color = sdk.FieldColor(sdk.FieldColorModeId.THRESHOLDS)
        steps = [sdk.Threshold(None, panel.thresholds.base)]
        steps += [sdk.Threshold(value, colour) for value, colour in panel.thresholds.steps]
        field.thresholds = sdk.ThresholdsConfig(sdk.ThresholdsMode.ABSOLUTE, steps)
    if panel.kind == "table":
        field.custom = common.TableFieldOptions()
    if panel.kind == "heatmap":
        field.custom = heatmap.FieldConfig()
    if panel.kind == "timeseries":
        stacked = panel.stack == "stacked"
        if panel.axis == "from zero":
            field.min_val = 0
        field.custom = common.GraphFieldConfig(
            draw_style=common.GraphDrawStyle.LINE,
            fill_opacity=20 if stacked else 0,
            show_points=common.VisibilityMode.NEVER,
            span_nulls=False,
            stacking=common.StackingConfig(
                common.StackingMode.NORMAL if stacked else common.StackingMode.NONE, "A"
            ),
        )
    return field


def _columns(panel: Panel) -> dict[str, str]:
    """Return the names that Grafana gives the columns of values, and ours."""
    if len(panel.queries) == 1:
        return {"Value": panel.queries[0].legend}
    letters = string.ascii_uppercase
    return {f"Value #{letters[i]}": query.legend for i, query in enumerate(panel.queries)}


def _transformations(panel: Panel) -> list[sdk.DataTransformerConfig]:
    """Return what makes one line a task of a table's queries."""
    if panel.kind != "table":
        return []
    names = _columns(panel)
    hidden = {"Time": True} | {c: True for c, name in names.items() if name in _MARKERS}
    renamed: object = {"excludeByName": hidden, "renameByName": names}
    return [
        sdk.DataTransformerConfig("merge", options={}),
        sdk.DataTransformerConfig("organize", options=renamed),
    ]


def _overrides(panel: Panel) -> list[sdk.DashboardFieldConfigSourceOverrides]:
    if panel.kind != "table":
        return []
    found = [
        _of_column(name, sdk.DynamicConfigValue("unit", _COLUMN_UNITS[name]))
        for name in _columns(panel).values()
        if name in _COLUMN_UNITS
    ]
    for link in panel.links:
        opened = sdk.DashboardLink(title=link.title, url=link.url).to_json()
        kept: object = [{key: opened[key] for key in ("title", "url")}]
        found.append(_of_column(link.column, sdk.DynamicConfigValue("links", kept)))
    return found


def _of_column(name: str, value: sdk.DynamicConfigValue) -> sdk.DashboardFieldConfigSourceOverrides:
    return sdk.DashboardFieldConfigSourceOverrides(sdk.MatcherConfig("byName", name), [value])
