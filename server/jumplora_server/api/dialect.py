"""What a dialect is: how answers and errors are written, as pure functions to bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from re import Pattern
from typing import Protocol

from starlette.types import Scope

from jumplora_server.api.ask import Ask, Origin, Result
from jumplora_server.core import Sampling, TokenEvent
from jumplora_server.errors import ServerError


@dataclass(frozen=True, slots=True)
class Dialect:
    """Each function is called with everything it may use.

    `piece` is the JSON of one prompt's result, `whole` the body made of all pieces; `event` is the
    server-sent event at an index of a stream, `broken_off` the last one of a stream that failed.
    `error` is the body of an error, of its code, message and reason.
    """

    piece: Callable[[Origin, Result], str]
    whole: Callable[[Ask, Sequence[str]], str]
    event: Callable[[Origin, Sampling, int, TokenEvent], bytes]
    broken_off: Callable[[ServerError], bytes]
    error: Callable[[str, str, str | None], Mapping[str, object]]


class HasDialect(Protocol):
    """A route of a dialect."""

    dialect: Dialect
    path_regex: Pattern[str]


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
