"""The few shapes of PromQL that the dashboards are written in, and which metrics a query reads.

Every query keeps to the chosen servers, and to the chosen tasks where its metric has that label.
Every rate runs over `$__rate_interval`, which Grafana sets from the scrape interval and the width
of the panel, but for an objective's own window.
"""

from __future__ import annotations

import re

# "All" of a variable is ".*", which also matches series without the label.
SERVERS = 'job=~"$job", instance=~"$instance", namespace=~"$namespace"'
SELECTED = f'{SERVERS}, task_id=~"$task_id"'
WINDOW = "[$__rate_interval]"
RESIDENT = f'jumplora_adapter_memory_bytes{{{SELECTED}, tier!="disk"}}'
# Prometheus knows more processes than ours; only ours have a build_info.
OURS = "and on (job, instance) jumplora_build_info"
_KEYWORDS = frozenset(
    {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right"}
    | {"bool", "offset", "inf", "nan"}
)


def quantile(q: float, histogram: str, by: str = "task_id", where: str = SELECTED) -> str:
    """Return the q-quantile of a histogram, per `by` ("" for all together)."""
    labels = f"le, {by}" if by else "le"
    buckets = f"sum by ({labels}) (rate({histogram}_bucket{{{where}}}{WINDOW}))"
    return f"histogram_quantile({q}, {buckets})"


def rate(counter: str, by: str = "task_id", where: str = SELECTED, window: str = WINDOW) -> str:
    """Return the summed rate of a counter, per `by` ("" for all together)."""
    total = f"sum by ({by})" if by else "sum"
    return f"{total} (rate({counter}{{{where}}}{window}))"


def share(part: str, whole: str) -> str:
    """Return part / whole, with no value (rather than 0 / 0) where there is no traffic."""
    return f"{part} / ({whole} > 0)"


def mean(histogram: str, by: str = "", where: str = SERVERS) -> str:
    """Return the mean of a histogram's observations."""
    return share(rate(f"{histogram}_sum", by, where), rate(f"{histogram}_count", by, where))


def of_servers(function: str, metric: str, by: str = "") -> str:
    """Return an aggregate of a metric of the chosen servers that has no task label."""
    grouping = f" by ({by}) " if by else ""
    return f"{function}{grouping}({metric}{{{SERVERS}}})"


def of_tasks(function: str, metric: str, by: str = "task_id", more: str = "") -> str:
    """Return an aggregate of a metric of the chosen tasks, of series that `more` matches."""
    grouping = f" by ({by}) " if by else ""
    where = f"{SELECTED}, {more}" if more else SELECTED
    return f"{function}{grouping}({metric}{{{where}}})"


def metric_names(expr: str) -> set[str]:
    """Return the metrics a PromQL expression reads.

    Enough of the grammar for expressions without subqueries or string functions: what is left of
    the identifiers after labels, windows, groupings, functions and keywords are gone.
    """
    rest = re.sub(r"\{[^}]*\}", " ", expr)
    rest = re.sub(r"\[[^\]]*\]", " ", rest)
    rest = re.sub(r"\boffset\s+\S+", " ", rest)
    rest = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", rest)
    found = re.findall(r"(?<![\w.:])([A-Za-z_:][\w:]*)(?!\w)(\s*\()?", rest)
    return {name for name, call in found if not call and name.lower() not in _KEYWORDS}
