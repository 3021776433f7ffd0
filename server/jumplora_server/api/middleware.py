"""The layers of ours around every request, from the outermost: its id and log line, its key, its
method, and what its body may be.

Plain ASGI: the framework's BaseHTTPMiddleware hides disconnects from the routes.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import re
import time
from collections.abc import Callable, Collection, Sequence
from typing import Literal

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from jumplora_server.access.caller import ADMIN_SCOPES, ANYBODY, API_SCOPES, Caller
from jumplora_server.api.ask import SCOPE_KEY, RequestRecord, new_record, record_of
from jumplora_server.api.audit import Audit
from jumplora_server.api.client_address import Proxies
from jumplora_server.api.dialect import generates
from jumplora_server.api.errors import allowed_methods, server_error_response
from jumplora_server.api.health import PROBES
from jumplora_server.api.route_table import place_of
from jumplora_server.errors import Forbidden, ServerError, Unauthorized
from jumplora_server.services import Services
from jumplora_server.settings import Settings

ACCESS_LOG = "jumplora.access"
Access = Literal["public", "api", "admin"]
# What balancers and supervisors ask, which have no key. None of them names a task.
PUBLIC_PATHS = frozenset(
    {"/livez", "/readyz", "/health", "/ping", "/v2/health/live", "/v2/health/ready"}
)
ADAPTERS_PATH = "/v1/adapters"
CONSOLE_PREFIX = "/console/"
DOCS_PATH = "/docs"
DOCUMENT_PATH = "/openapi.json"
METRICS_PATH = "/metrics"
MODELS_PATH = "/v1/models"
LORA_PATHS = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
ADMIN_KEY_NEEDED = "changing adapters takes an admin key"
CHANGES_ARE_OFF = (
    "changing adapters over HTTP is switched off: start the server with JUMPLORA_ADMIN_KEYS, or "
    "publish into its store folder"
)
KEY_ID_DIGITS = 12  # of a key's SHA-256: names it in logs, and does not give it away
READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
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
            self._audit.ended(scope, record, status, is_change=_changes(scope))

    def _level(self, path: str, status: int) -> int:
        if path not in self._quiet:
            return logging.INFO
        was_unavailable, is_unavailable = path in self._unavailable, status == 503
        (self._unavailable.add if is_unavailable else self._unavailable.discard)(path)
        is_usual = is_unavailable or 200 <= status < 400
        return logging.DEBUG if is_usual and was_unavailable == is_unavailable else logging.INFO


def _count(scope: AsgiScope, record: RequestRecord) -> None:
    # Only what never became a sequence: those count themselves when they end.
    outcome = record.outcome
    if outcome is None or record.counted_by != "middleware" or not generates(scope):
        return
    services: Services = scope["app"].state.services
    # A task that the caller does not see counts as one that is not there, for that caller may read
    # both counters, and has no part in the other one's.
    is_hidden = record.task is not None and not record.caller.may_see(record.task)
    services.metrics.request_finished("" if is_hidden else record.task, outcome, None)


def _changes(scope: AsgiScope) -> bool:
    method: str = scope["method"]
    return method not in READING_METHODS and needed_access(method, scope["path"]) == "admin"


def opened_paths(settings: Settings) -> frozenset[str]:
    """What the settings open for reading: a Kubernetes gateway asks for both without a key."""
    wishes = {MODELS_PATH: settings.open_models, METRICS_PATH: settings.open_metrics}
    return frozenset(path for path, wish in wishes.items() if wish == "yes")


def needed_access(method: str, path: str, *, opened: Collection[str] = ()) -> Access:
    """What a request needs. Changing adapters needs an admin key, all else at least an api key.

    Reading what is at one of the `opened` paths, or below it, needs none.
    """
    if path in PUBLIC_PATHS:
        return "public"
    if method in READING_METHODS and _is_page(path):
        return "public"
    if method in READING_METHODS:
        return "public" if any(is_at(path, place) for place in opened) else "api"
    return "admin" if path in LORA_PATHS or is_at(path, ADAPTERS_PATH) else "api"


def _is_page(path: str) -> bool:
    """Whether a browser opens it, without a key: files of the package, the same on every server.
    What the pages show of this one they ask of other routes."""
    return path in ("/", DOCUMENT_PATH) or path.startswith(CONSOLE_PREFIX) or is_at(path, DOCS_PATH)


def is_at(path: str, prefix: str) -> bool:
    """Whether a path is that one or lies below it."""
    return path == prefix or path.startswith(prefix + "/")


class KeyCheck:
    """Checks `Authorization: Bearer <key>`. Keys are compared as SHA-256, in constant time."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        admin_hashes: Sequence[str],
        api_hashes: Sequence[str],
        opened: Collection[str] = (),
    ) -> None:
        self._app = app
        self._opened = opened
        self._admin = tuple(admin_hashes)
        self._api = tuple(api_hashes)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            header = Headers(scope=scope).get("authorization")
            record = record_of(scope)
            needed = needed_access(scope["method"], scope["path"], opened=self._opened)
            try:
                record.caller = self.admit(needed, header)
            except ServerError as refusal:
                record.caller = self._known(header) or ANYBODY  # a key without the right, by name
                record.failed(refusal)
                await server_error_response(scope, refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def admit(self, needed: Access, header: str | None) -> Caller:
        """Who asks, by the Authorization header. Raises Unauthorized, Forbidden."""
        if needed == "public":
            return ANYBODY
        if needed == "admin" and not self._admin:
            raise Forbidden(CHANGES_ARE_OFF)
        if needed == "api" and not self._api:
            # Open to everybody: a key that is not known does no harm, and stock clients send one.
            return self._known(header) or ANYBODY
        if header is None:
            raise Unauthorized("a key is required: Authorization: Bearer <key>")
        scheme, _, key = header.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorized("the header must read Authorization: Bearer <key>")
        caller = self._known(header)
        if caller is None:
            raise Unauthorized("the key is not known")
        if needed == "admin" and "admin" not in caller.scopes:
            raise Forbidden(f"this key may generate and read; {ADMIN_KEY_NEEDED}")
        return caller

    def _known(self, header: str | None) -> Caller | None:
        """Whose key a header has, if it has one that is known."""
        scheme, _, key = (header or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        given = hashlib.sha256(key.strip().encode("utf-8", errors="replace")).hexdigest()
        is_admin = _matches(given, self._admin)
        is_api = _matches(given, self._api)
        if not is_admin and not is_api:
            return None
        return Caller(given[:KEY_ID_DIGITS], ADMIN_SCOPES if is_admin else API_SCOPES)


def _matches(given: str, hashes: Sequence[str]) -> bool:
    # All are compared, so that time does not tell which one nearly matched.
    return sum(hmac.compare_digest(given, known) for known in hashes) > 0


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
