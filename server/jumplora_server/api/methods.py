"""What HTTP asks of every route: HEAD as GET without the body, OPTIONS, and what is allowed."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class Methods:
    """Answers HEAD with the status and the fields that GET would have, and OPTIONS with `allow`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"] if scope["type"] == "http" else ""
        if method == "OPTIONS":
            allowed = allowed_methods(scope)
            if allowed:
                answer = Response(
                    status_code=204, headers={"allow": ", ".join([*allowed, "OPTIONS"])}
                )
                await answer(scope, receive, send)
                return
        if method != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        scope["method"] = "GET"
        try:
            await self._app(scope, receive, without_body)
        finally:
            scope["method"] = "HEAD"  # for the access log


def allowed_methods(scope: Scope) -> list[str]:
    """What may be asked of the path, OPTIONS apart; nothing where no route has it."""
    app: Starlette = scope["app"]
    any_path = scope["path"] == "*"
    found = [
        method
        for method in METHODS
        if any_path
        or any(
            route.matches({**scope, "method": method})[0] is Match.FULL
            for route in app.router.routes
        )
    ]
    if "GET" in found:
        found.insert(1, "HEAD")
    return found
