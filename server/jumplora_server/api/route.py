"""Routes that read JSON strictly and at a bounded cost: how much there is of it is counted first.

The texts in it may be as long as the body may be. What is bounded is the number of keys and items:
each becomes an object, and may become a fault of which the answer speaks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from jumplora_adapters.json_text import MAX_DEPTH, TOO_DEEP, read_json
from jumplora_server.api.ask import record_of
from jumplora_server.api.dialect import Dialect
from jumplora_server.api.errors import NO_OBJECT, BodyLost, validation_message
from jumplora_server.errors import InvalidInput
from jumplora_server.services import Services

TASK_HEADER = "x-task-id"
VERSION_HEADER = "x-adapter-version"  # of requests; answers say by it who answered
MAX_MARKS = 8192  # a list of as many prompts as the settings allow at most has half of that
SMALL_BYTES = 16_384  # read on the event loop, in less than a millisecond
READING = "@reading"  # the turn in the lane of what names no task yet; no task can be called so
_MARKS = "[]{},:"
# A string; most have no escaped quote, and are found five times as fast by the first way. Here and
# below what matched is not tried in another way (`++`): the time is linear.
_STRING = r'"(?:[^"]*+(?<!\\)"|[^"\\]*+(?:\\.[^"\\]*+)*+")'
# The next mark that is outside of strings; between two marks is at most one string.
_NEXT = re.compile(
    rf'[^"\[\]{{}},:]*+(?:{_STRING}[^"\[\]{{}},:]*+)?+[\[\]{{}},:]',
    re.DOTALL,
)

Typed = Literal["always", "or not at all"]  # whether a body needs its content-type
M = TypeVar("M", bound=BaseModel)


class JsonRequest(Request):
    """A request whose `json` refuses what is ambiguous: keys that come twice, odd encodings."""

    async def body(self) -> bytes:
        """All of it. Raises BodyLost where the client hangs up before."""
        try:
            return await super().body()
        except ClientDisconnect:
            raise BodyLost from None

    async def json(self) -> Any:
        """The body's value. Raises JSONDecodeError, which the framework passes on, for any fault;
        its text names no place in the document that is not in the message."""
        body = await self.body()
        try:
            if len(body) <= SMALL_BYTES:
                return parse_body(body)
            return await self.services.lanes.large.run(READING, partial(parse_body, body))
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from error

    async def model(self, kind: type[M], typed: Typed = "always") -> M:
        """The body as a model. Raises InvalidInput."""
        if not await self.body():
            raise InvalidInput(f"the body is empty: {NO_OBJECT}")
        content_type = self.headers.get("content-type", "")
        if not is_json(content_type) and (content_type or typed == "always"):
            given = f"is {content_type[:80]!a}" if content_type else "is missing"
            raise InvalidInput(f"content-type {given}: {NO_OBJECT}")
        try:
            return kind.model_validate(await self.json())
        except json.JSONDecodeError as error:
            raise InvalidInput(f"the body is not valid JSON: {error.msg}") from error
        except ValidationError as error:
            raise InvalidInput(validation_message(error.errors(include_url=False))) from error

    @property
    def services(self) -> Services:
        """The parts that the app was built with."""
        services: Services = self.app.state.services
        return services


class JsonRoute(APIRoute):
    """A route whose body, which may be missing, is read by `parse_body`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's handler, given a JsonRequest."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handler


def _headers(
    x_adapter_version: Annotated[
        str | None,
        Header(
            description="which version of the task is to answer: 8 digits or more of it, staged, "
            "current or an alias; must agree with what names one too"
        ),
    ] = None,
) -> None:
    """For the OpenAPI document: what every route that generates reads."""


class DialectRoute(APIRoute):
    """A route that generates. A subclass for each dialect says which it is, and what a body is.

    What the endpoints declare makes the OpenAPI document; the framework would solve it anew for
    each request, in 0.2 ms: a third of what a refused request costs the app. An endpoint gets
    `request`, `services`, `body`, `x_task_id` and what its path names.
    """

    dialect: ClassVar[Dialect]
    body: ClassVar[type[BaseModel]]
    typed: ClassVar[Typed] = "always"

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        options["dependencies"] = [*(options.get("dependencies") or ()), Depends(_headers)]
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Call the endpoint with what it declares."""
        endpoint: Callable[..., Coroutine[Any, Any, Response]] = self.endpoint

        async def handler(plain: Request) -> Response:
            request = JsonRequest(plain.scope, plain.receive)
            record_of(plain.scope).asked_version = request.headers.get(VERSION_HEADER)
            return await endpoint(
                request=request,
                services=request.services,
                body=await request.model(self.body, self.typed),
                x_task_id=request.headers.get(TASK_HEADER),
                **request.path_params,
            )

        return handler


def add_dialect(
    app: FastAPI, router: APIRouter, forms: Mapping[str, Dialect | None] | None = None
) -> None:
    """Serve a dialect's routes; what is refused before it finds its route is still theirs.

    `forms` says in which dialect's form the errors of all paths below a prefix are, routes or none;
    None is the server's own. Raises ValueError for a router that holds another one.
    """
    if not all(isinstance(route, APIRoute) for route in router.routes):
        raise ValueError("a dialect's router cannot hold another one: add each by itself")
    app.include_router(router)
    known: tuple[DialectRoute, ...] = getattr(app.state, "dialect_routes", ())
    generating = (route for route in router.routes if isinstance(route, DialectRoute))
    app.state.dialect_routes = (*known, *generating)
    app.state.error_forms = {**getattr(app.state, "error_forms", {}), **(forms or {})}


def is_json(content_type: str) -> bool:
    """Whether a content-type field says that the body is JSON."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )


def parse_body(body: bytes) -> Any:
    """The value of a JSON body. Raises ValueError, whose text says what is wrong."""
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it begins with a byte order mark; it must be UTF-8 without one")
    if body.startswith(b"\x1f\x8b"):
        raise ValueError("it looks compressed (gzip); send it as it is")
    if b"\0" in body[:4]:
        raise ValueError("it must be UTF-8; it has NUL bytes, as UTF-16 and UTF-32 have")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: the byte at {error.start} fits no character") from error
    _check_size(text)
    try:
        return read_json(text)
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" starting at")
        raise ValueError(f"{what} at character {error.pos}") from None


def _check_size(text: str) -> None:
    """Raise ValueError where there is too much in it; what is not JSON at all is found later."""
    if sum(map(text.count, _MARKS)) <= MAX_DEPTH:  # those inside of strings too
        return
    at = marks = depth = 0
    while found := _NEXT.match(text, at):
        at = found.end()
        marks += 1
        mark = text[at - 1]
        depth += (mark in "[{") - (mark in "]}")
        if marks > MAX_MARKS:
            raise ValueError(f"it has more than {MAX_MARKS} brackets, colons and commas")
        if depth > MAX_DEPTH:
            raise ValueError(TOO_DEEP)
