"""The layers of ours around every request, from the outermost: its id and log line, its key, its
method, and what its body may be.

Plain ASGI: the framework's BaseHTTPMiddleware hides disconnects from the routes.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from jumplora_server.access.gate import Refusal
from jumplora_server.access.live_keys import LiveKeys
from jumplora_server.access.needs import METRICS_PATH, MODELS_PATH, Need, is_change, needed_access
from jumplora_server.api.ask import SCOPE_KEY, RequestRecord, new_record, record_of
from jumplora_server.api.audit import Audit
from jumplora_server.api.client_address import Proxies
from jumplora_server.api.dialect import generates
from jumplora_server.api.errors import allowed_methods, server_error_response
from jumplora_server.api.health import PROBES
from jumplora_server.api.route_table import place_of
from jumplora_server.services import Services
from jumplora_server.settings import Settings

ACCESS_LOG = "jumplora.access"
_CHARSET = re.compile(r""";\s*charset\s*=\s*["']?([^"';\s]*)""", re.ASCII | re.IGNORECASE)
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
_log = logging.getLogger(ACCESS_LOG)


class AccessLog:
    """Gives each request an id, returns it as `x-request-id`, and logs one line at the end.

    A line of a probe or a scrape, of which some come each second, is of level debug unless it says
    something new: that it was refused, that it is answered with 503 from now on or no longer.
    `polled` are further paths of that kind.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        audit: Audit,
        proxies: Proxies,
        polled: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._audit = audit
        self._proxies = proxies
        self._quiet = PROBES | frozenset(polled)
        self._clock = clock
        self._unavailable: set[str] = set()  # probes that were answered with 503 last

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = self._proxies.client_of(scope)
        record = scope[SCOPE_KEY] = new_record(Headers(scope=scope).get("x-request-id"), client)
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
        except Exception:
            record.error = "internal"  # the answer is made outside of this layer
            status = status or 500
            raise
        finally:
            _count(scope, record)
            route = scope.get("route")
            fields = {
                "request_id": record.request_id,
                "client": client,
                "key": record.caller.key_id or "-",
                "method": scope["method"],
                # Never the raw path: it may hold anything.
                "route": place_of(scope).path if route is None else route.path,
                "task": record.task or "-",
                "version": (record.version or "-")[:12],
                "status": status,
                "ms": round((self._clock() - began) * 1000, 1),
                "prompt_tokens": record.prompt_tokens,
                "generated_tokens": record.generated_tokens,
                **({} if record.trace is None else {"trace": record.trace.trace_id}),
            }
            if record.error is not None:
                fields["error"] = record.error
            _log.log(self._level(scope["path"], status), "request", extra={"fields": fields})
            self._audit.ended(
                scope, record, status, is_change=is_change(scope["method"], scope["path"])
            )

    def _level(self, path: str, status: int) -> int:
        if path not in self._quiet:
            return logging.INFO
        was_unavailable, is_unavailable = path in self._unavailable, status == 503
        (self._unavailable.add if is_unavailable else self._unavailable.discard)(path)
        is_usual = is_unavailable or 200 <= status < 400
        return logging.DEBUG if is_usual and was_unavailable == is_unavailable else logging.INFO


def _count(scope: AsgiScope, record: RequestRecord) -> None:
    refused_for, outcome = record.refused_for, record.outcome
    # Only what never became a sequence: those count themselves when they end.
    is_counted = outcome is not None and record.counted_by == "middleware" and generates(scope)
    if refused_for is None and not is_counted:
        return
    services: Services = scope["app"].state.services
    if refused_for is not None:
        services.metrics.auth_refused(refused_for)
    if outcome is not None and is_counted:
        # A task that the caller does not see counts as one that is not there, for that caller may
        # read both counters, and has no part in the other one's.
        is_hidden = record.task is not None and not record.caller.may_see(record.task)
        services.metrics.request_finished("" if is_hidden else record.task, outcome, None)


def opened_paths(settings: Settings) -> frozenset[str]:
    """What the settings open for reading: a Kubernetes gateway asks for both without a key."""
    wishes = {MODELS_PATH: settings.open_models, METRICS_PATH: settings.open_metrics}
    return frozenset(path for path, wish in wishes.items() if wish == "yes")


class KeyCheck:
    """Lets in who may ask that, by `Authorization: Bearer <key>`; notes the caller, or why not."""

    def __init__(self, app: ASGIApp, *, keys: LiveKeys, opened: Collection[str] = ()) -> None:
        self._app = app
        self._keys = keys
        self._opened = opened

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            record = record_of(scope)
            header = Headers(scope=scope).get("authorization")
            found = self._keys.admit(need_of(scope, self._opened), header)
            if isinstance(found, Refusal):
                record.caller, record.refused_for = found.caller, found.reason
                record.failed(found.error)
                await server_error_response(scope, found.error)(scope, receive, send)
                return
            record.caller = found
        await self._app(scope, receive, send)


def need_of(scope: AsgiScope, opened: Collection[str] = ()) -> Need:
    """What a request needs. What the table of needs lacks is open to no key where there is such a
    route; a dialect's own routes generate."""
    method = scope["method"]
    listed = needed_access(method, scope["path"], opened=opened)
    if listed is not None:
        return listed
    if generates(scope):
        return "infer"
    asked = {**scope, "method": "GET" if method == "HEAD" else method}
    is_route = any(each.matches(asked)[0] is Match.FULL for each in scope["app"].router.routes)
    return "closed" if is_route else "any"


class Methods:
    """Answers HEAD with the status and the fields that GET would have, and OPTIONS with `allow`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
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


class BodyCheck:
    """Refuses, where a route reads it, a body that is encoded or not in UTF-8 with 415, and one of
    more than `max_bytes` with 413, uploads apart. All before it is read, where the head tells.

    The framework's own limit answers in plain text, and outside of the handlers.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
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
