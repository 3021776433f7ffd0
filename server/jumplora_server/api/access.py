"""The outermost layer of ours around every request: its id, its log line, its body limit.

Plain ASGI: the framework's BaseHTTPMiddleware hides disconnects from the routes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jumplora_server.api.record import SCOPE_KEY, RequestRecord, new_record
from jumplora_server.services import Services

GENERATION_PATHS = frozenset({"/generate", "/generate_stream"})
TASKS_PATH = "/v1/tasks/"
ACCESS_LOG = "jumplora.access"
_log = logging.getLogger(ACCESS_LOG)


class AccessLog:
    """Gives each request an id, returns it as `x-request-id`, and logs one line at the end."""

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = scope[SCOPE_KEY] = new_record(Headers(scope=scope).get("x-request-id"))
        status = 0
        began = self._clock()

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = record.request_id
            await send(message)

        try:
            await self._app(scope, receive, tell)
        finally:
            _count(scope, record)
            route = scope.get("route")
            fields = {
                "request_id": record.request_id,
                "method": scope["method"],
                "route": getattr(route, "path", "-"),  # never the raw path: it may hold anything
                "task": record.task or "-",
                "version": (record.version or "-")[:12],
                "status": status,
                "ms": round((self._clock() - began) * 1000, 1),
                "prompt_tokens": record.prompt_tokens,
                "generated_tokens": record.generated_tokens,
            }
            _log.info("request", extra={"fields": fields})


def _count(scope: Scope, record: RequestRecord) -> None:
    # Only what never became a sequence: those count themselves when they end.
    path, outcome = scope["path"], record.outcome
    is_generation = path in GENERATION_PATHS or path.startswith(TASKS_PATH)
    if is_generation and outcome is not None and record.counted_by == "middleware":
        services: Services = scope["app"].state.services
        services.metrics.request_finished(record.task, outcome, None)


class BodyLimit:
    """Refuses bodies over `max_bytes` with 413 in our own form of errors, uploads apart.

    The framework's own limit answers in plain text, and outside of the handlers.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_upload(scope):
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        # The HTTP server refuses lengths that are not numbers.
        expected = int(declared) if declared.isdecimal() else 0
        received = 0

        async def limited() -> Message:
            nonlocal received
            if max(expected, received) > self._max_bytes:
                raise self._refusal(max(expected, received))
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._max_bytes:
                    raise self._refusal(received)
            return message

        await self._app(scope, limited, send)

    def _refusal(self, size: int) -> HTTPException:
        return HTTPException(
            413, f"the body has {size} bytes or more; at most {self._max_bytes} are allowed"
        )


def is_upload(scope: Scope) -> bool:
    """Whether the route counts the bytes itself, against a limit of its own."""
    path: str = scope["path"]
    return scope["method"] == "PUT" and path.startswith("/v1/adapters/")
