"""Which version a task's name means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jumplora_adapters.routing import Staged
from jumplora_server.core import AdapterRef
from jumplora_server.errors import AdapterUnavailable, UnknownTask, UnknownVersion
from jumplora_server.residency.entries import LoadFailure, Route, RoutingTable

V1, V2, V3 = "a1" * 32, "a1" * 4 + "b2" * 28, "c3" * 32
SERVED = AdapterRef("agnews", V1, (V1,))
TABLE = (
    RoutingTable()
    .with_route(Route("agnews", desired=V2, versions=(V3, V1, V2), served=SERVED))
    .with_route(Route("dbpedia", desired=V3, versions=(V3,)))
    .with_route(Route("odd", desired=None, versions=()))
)


@pytest.mark.parametrize(
    ("spec", "version"),
    [
        pytest.param("agnews", V1, id="task: the served version, not the desired one"),
        pytest.param(f"agnews@{V2}", V2, id="whole digest"),
        pytest.param(f"agnews@{V3[:8]}", V3, id="prefix"),
        pytest.param(f"dbpedia@{V3}", V3, id="version of a task that serves none"),
        pytest.param("dbpedia", V3, id="nothing served yet: the desired version"),
    ],
)
def test_resolves(spec: str, version: str) -> None:
    route, found = TABLE.version(spec)
    assert (route.task, found) == (spec.partition("@")[0], version)


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        pytest.param("agnew", UnknownTask, "'agnew'; see GET /v1/models", id="near miss"),
        pytest.param("zzz", UnknownTask, "'zzz'", id="nothing near"),
        pytest.param("agnew@" + V1, UnknownTask, "'agnew'", id="version of an unknown task"),
        pytest.param("agnews@", UnknownVersion, "8 to 64", id="empty prefix"),
        pytest.param("agnews@a1a1a1a", UnknownVersion, "is called 'a1a1a1a'", id="7 digits"),
        pytest.param("agnews@1a1a1a1", UnknownVersion, "8 to 64", id="7 digits, no name"),
        pytest.param("agnews@A1A1A1A1", UnknownVersion, "is called", id="upper case"),
        pytest.param("agnews@staged", UnknownVersion, "no staged version", id="nothing staged"),
        pytest.param("agnews@best", UnknownVersion, "has no alias", id="no such name"),
        pytest.param("agnews@a1a1a1a1", UnknownVersion, "several", id="ambiguous"),
        pytest.param(
            "agnews@dddddddd", UnknownVersion, "no version .* starts with", id="no such version"
        ),
        pytest.param("agnews@" + V1 + "0", UnknownVersion, "8 to 64", id="65 digits"),
        pytest.param("odd", AdapterUnavailable, "still being read", id="no pointer was read yet"),
    ],
)
def test_refuses(spec: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        TABLE.version(spec)


def test_a_failure_is_the_reason() -> None:
    failure = LoadFailure("fingerprint", "made for another backbone")
    table = TABLE.with_route(Route("cb", desired=V1, versions=(V1,), failure=failure))
    with pytest.raises(AdapterUnavailable, match="another backbone") as caught:
        table.version("cb")
    assert caught.value.reason == "fingerprint"


def test_tables_do_not_change() -> None:
    smaller = TABLE.without("agnews")
    assert set(smaller.routes) == {"dbpedia", "odd"}
    assert set(TABLE.routes) == {"agnews", "dbpedia", "odd"}
    assert TABLE.route("agnews").served is SERVED


def test_names_of_versions() -> None:
    staged = Staged(V2, 0.1, "2026-11-28T00:00:00.000+00:00")
    agnews = replace(TABLE.route("agnews"), staged=staged, aliases={"best": V1})
    table = TABLE.with_route(agnews)
    assert table.version("agnews@staged") == (agnews, V2)
    assert table.version("agnews@best") == (agnews, V1)
    assert table.version("agnews@current") == table.version("agnews")
    with pytest.raises(UnknownVersion, match="is called 'Best'; its aliases are best"):
        table.version("agnews@Best")
