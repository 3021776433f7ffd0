"""What a dialect is: how answers and errors are written, as pure functions to bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from re import Pattern
from typing import Protocol

from starlette.types import Scope

from jumplora_server.api.ask import Origin, Result
from jumplora_server.core import Sampling, TokenEvent
from jumplora_server.errors import ServerError


class BodyWriter(Protocol):
    """Writes the answer to one request; made for it, so it may keep what it needs on the way.

    One body is made of `piece` for each prompt in order, then `whole`.
    """

    def piece(self, origin: Origin, index: int, result: Result) -> str:
        """The JSON of what became of the prompt at `index`."""

    def whole(self, origin: Origin, pieces: Sequence[str]) -> str:
        """The body made of all pieces."""


class Writer(BodyWriter, Protocol):
    """Writes streams as well: `event` for each event of each sequence, then `ending`; or
    `broken_off`, which is its last one."""

    def event(
        self, origin: Origin, number: int, sampling: Sampling, index: int, event: TokenEvent
    ) -> bytes:
        """The server-sent event, or several of them, of the event at `index` of a sequence.

        Sequences are numbered from 0: those of the first prompt, then those of the second.
        """

    def ending(self, origin: Origin) -> bytes:
        """What stands behind the events of all sequences; b"" for nothing."""

    def broken_off(self, error: ServerError) -> bytes:
        """The last event of a stream that failed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What an error says. `code` is the server's own, `reason` the check behind it, if any."""

    status: int
    code: str
    message: str  # bounded, and safe to print
    reason: str | None


@dataclass(frozen=True, slots=True)
class Dialect:
    """How errors look, whatever they are of. `statuses` has HTTP statuses of its own, by the
    server's code."""

    error: Callable[[Fault], Mapping[str, object]]
    statuses: Mapping[str, int] = field(default_factory=dict)


class HasDialect(Protocol):
    """A route of a dialect that generates."""

    dialect: Dialect
    path_regex: Pattern[str]
    methods: set[str]


def dialect_of(scope: Scope) -> Dialect | None:
    """The dialect of the route that a request is for, routed or refused before; None where it is
    for none that generates."""
    if "route" in scope:
        dialect: Dialect | None = getattr(scope["route"], "dialect", None)
        return dialect
    route: HasDialect
    for route in getattr(scope["app"].state, "dialect_routes", ()):
        if route.path_regex.match(scope["path"]) is not None:
            return route.dialect
    return None


def generates(scope: Scope) -> bool:
    """Whether a request is one to generate, answered or refused: by path and by method, so that
    neither `HEAD /` of a load balancer nor `GET /generate` of a browser is."""
    routes: Sequence[HasDialect] = getattr(scope["app"].state, "dialect_routes", ())
    return any(
        scope["method"] in route.methods and route.path_regex.match(scope["path"]) is not None
        for route in routes
    )


def form_of(scope: Scope) -> Dialect | None:
    """The dialect that an error is written in: that of the route, else that of the longest prefix
    of the path that has one; None is the server's own form."""
    if (dialect := dialect_of(scope)) is not None:
        return dialect
    path, found, form = scope["path"], "", None
    for prefix, dialect in getattr(scope["app"].state, "error_forms", {}).items():
        if (path == prefix or path.startswith(prefix + "/")) and len(prefix) > len(found):
            found, form = prefix, dialect
    return form
