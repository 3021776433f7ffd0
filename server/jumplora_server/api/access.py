"""The outermost layer of ours around every request: its id, its log line, what its body may be.

Plain ASGI: the framework's BaseHTTPMiddleware hides disconnects from the routes.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jumplora_server.api.dialect import dialect_of
from jumplora_server.api.record import SCOPE_KEY, RequestRecord, new_record
from jumplora_server.services import Services

ACCESS_LOG = "jumplora.access"
_CHARSET = re.compile(r""";\s*charset\s*=\s*["']?([^"';\s]*)""", re.ASCII | re.IGNORECASE)
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
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
    outcome = record.outcome
    if outcome is None or record.counted_by != "middleware" or dialect_of(scope) is None:
        return
    services: Services = scope["app"].state.services
    services.metrics.request_finished(record.task, outcome, None)


class BodyCheck:
    """Refuses, where a route reads it, a body that is encoded or not in UTF-8 with 415, and one of
    more than `max_bytes` with 413, uploads apart. All before it is read, where the head tells.

    The framework's own limit answers in plain text, and outside of the handlers.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = math.inf if is_upload(scope["method"], scope["path"]) else self._max_bytes
        declared = headers.get("content-length", "0")
        # The HTTP server refuses lengths that are not numbers.
        expected = int(declared) if declared.isdecimal() else 0
        received = 0
        is_checked = False

        async def limited() -> Message:
            nonlocal received, is_checked
            if not is_checked:
                check_type(headers)
                is_checked = True
            if max(expected, received) > limit:
                raise self._refusal(max(expected, received))
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > limit:
                    raise self._refusal(received)
            return message

        await self._app(scope, limited, send)

    def _refusal(self, size: int) -> HTTPException:
        return HTTPException(
            413, f"the body has {size} bytes or more; at most {self._max_bytes} are allowed"
        )


def is_upload(method: str, path: str) -> bool:
    """Whether the route counts the bytes itself, against a limit of its own."""
    return method == "PUT" and path.startswith("/v1/adapters/")


def check_type(headers: Headers) -> None:
    """Raise 415 where a body is encoded or not in UTF-8."""
    codings = headers.getlist("content-encoding")
    # An empty field names no coding.
    if any(coding.strip().lower() not in ("", "identity") for coding in codings):
        raise HTTPException(
            415,
            f"content-encoding {', '.join(codings)[:40]!r} is not allowed: send the body as it is",
            headers={"accept-encoding": "identity"},
        )
    charset = _CHARSET.search(headers.get("content-type", ""))
    if charset is not None and charset[1].lower() not in _CHARSETS:
        raise HTTPException(
            415, f"the charset {charset[1][:40]!r} of content-type is not allowed: bodies are UTF-8"
        )
