"""All routes of an app by path, to say what a request that was refused before is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from re import Pattern

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.types import Scope

UNMATCHED = "<unmatched>"


@dataclass(frozen=True, slots=True)
class Place:
    """What a request is for: the route's template and name, and what the path says in it."""

    path: str = UNMATCHED
    name: str = UNMATCHED
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Row:
    path: str
    name: str
    methods: frozenset[str]
    pattern: Pattern[str]


class RouteTable:
    """Finds a route as the router does, and does not run it."""

    def __init__(self, app: FastAPI) -> None:
        self._rows = tuple(
            _Row(route.path, route.name or "-", frozenset(route.methods or ()), route.path_regex)
            for route in iter_route_contexts(app.routes)
            if route.path is not None
        )

    def place_of(self, scope: Scope) -> Place:
        """The route of the request's path and method, else one of its path."""
        path, method = scope["path"], scope["method"]
        found: Place | None = None
        for row in self._rows:
            match = row.pattern.match(path)
            if match is None:
                continue
            if method in row.methods:
                return Place(row.path, row.name, match.groupdict())
            found = found or Place(row.path, row.name, match.groupdict())
        return found or Place()


def place_of(scope: Scope) -> Place:
    """By the table of the scope's app; where that has none, nothing is matched."""
    table: RouteTable | None = getattr(getattr(scope.get("app"), "state", None), "table", None)
    return Place() if table is None else table.place_of(scope)
