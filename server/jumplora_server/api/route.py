"""A route that generates, in a dialect: its requests are counted, its answers written by that."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import Response

from jumplora_server.api.dialect import Dialect
from jumplora_server.api.health import services_of
from jumplora_server.api.json_body import JsonRequest
from jumplora_server.api.task_spec import TASK_HEADER


class DialectRoute(APIRoute):
    """A subclass for each dialect says which it is, and what a request's body is.

    What the endpoints declare makes the OpenAPI document; the framework would solve it anew for
    each request, in 0.2 ms: a third of what a refused request costs the app. An endpoint gets
    `request`, `services`, `body`, `x_task_id` and what its path names.
    """

    dialect: ClassVar[Dialect]
    body: ClassVar[type[BaseModel]]

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Call the endpoint with what it declares."""
        endpoint: Callable[..., Coroutine[Any, Any, Response]] = self.endpoint

        async def handler(plain: Request) -> Response:
            request = JsonRequest(plain.scope, plain.receive)
            return await endpoint(
                request=request,
                services=await services_of(request),
                body=await request.model(self.body),
                x_task_id=request.headers.get(TASK_HEADER),
                **request.path_params,
            )

        return handler


def add_dialect(app: FastAPI, router: APIRouter) -> None:
    """Serve a dialect's routes; what is refused before it finds its route is still theirs."""
    app.include_router(router)
    known: tuple[DialectRoute, ...] = getattr(app.state, "dialect_routes", ())
    app.state.dialect_routes = (*known, *router.routes)
