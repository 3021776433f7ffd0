"""Who may do what: every path needs a key unless it is listed here, if keys are configured."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Literal

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from jumplora_server.api.ask import ANYBODY, Caller, Scope
from jumplora_server.api.errors import server_error_response
from jumplora_server.api.record import record_of
from jumplora_server.errors import Forbidden, ServerError, Unauthorized

Access = Literal["public", "api", "admin"]
PUBLIC_PATHS = frozenset({"/livez", "/readyz", "/health"})
ADAPTERS_PATH = "/v1/adapters"
KEY_ID_DIGITS = 12  # of a key's SHA-256: names it in logs, and does not give it away
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


def needed_access(method: str, path: str) -> Access:
    """What a request needs. Changing adapters needs an admin key, all else at least an api key."""
    if path in PUBLIC_PATHS:
        return "public"
    if method not in _READING and (path == ADAPTERS_PATH or path.startswith(ADAPTERS_PATH + "/")):
        return "admin"
    return "api"


class KeyCheck:
    """Checks `Authorization: Bearer <key>`. Keys are compared as SHA-256, in constant time."""

    def __init__(
        self, app: ASGIApp, *, admin_hashes: Sequence[str], api_hashes: Sequence[str]
    ) -> None:
        self._app = app
        self._admin = tuple(admin_hashes)
        self._api = tuple(api_hashes)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            header = Headers(scope=scope).get("authorization")
            record = record_of(scope)
            try:
                record.caller = self.admit(needed_access(scope["method"], scope["path"]), header)
            except ServerError as refusal:
                record.failed(refusal)
                await server_error_response(scope, refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def admit(self, needed: Access, header: str | None) -> Caller:
        """Who asks, by the Authorization header. Raises Unauthorized, Forbidden."""
        if needed == "public" or (needed == "api" and not self._api):
            return ANYBODY
        if needed == "admin" and not self._admin:
            raise Forbidden(
                "changing adapters over HTTP is switched off: start the server with "
                "JUMPLORA_ADMIN_KEYS, or publish into its store folder"
            )
        if header is None:
            raise Unauthorized("a key is required: Authorization: Bearer <key>")
        scheme, _, key = header.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorized("the header must read Authorization: Bearer <key>")
        given = hashlib.sha256(key.strip().encode("utf-8", errors="replace")).hexdigest()
        is_admin = _matches(given, self._admin)
        is_api = _matches(given, self._api)
        if not is_admin and not is_api:
            raise Unauthorized("the key is not known")
        if needed == "admin" and not is_admin:
            raise Forbidden("this key may generate and read; changing adapters takes an admin key")
        scopes: frozenset[Scope] = frozenset({"api", "admin"} if is_admin else {"api"})
        return Caller(given[:KEY_ID_DIGITS], scopes)


def _matches(given: str, hashes: Sequence[str]) -> bool:
    # All are compared, so that time does not tell which one nearly matched.
    return sum(hmac.compare_digest(given, known) for known in hashes) > 0
