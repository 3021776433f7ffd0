"""Who may do what: every path needs a key unless it is listed here, if keys are configured."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Literal

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from jumplora_server.api.errors import server_error_response
from jumplora_server.api.record import record_of
from jumplora_server.errors import Forbidden, ServerError, Unauthorized

Access = Literal["public", "api", "admin"]
PUBLIC_PATHS = frozenset({"/livez", "/readyz", "/health"})
ADAPTERS_PATH = "/v1/adapters"
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            header = Headers(scope=scope).get("authorization")
            refusal = self.refusal(needed_access(scope["method"], scope["path"]), header)
            if refusal is not None:
                record_of(scope).failed(refusal)
                await server_error_response(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def refusal(self, needed: Access, header: str | None) -> ServerError | None:
        """Why a request with that Authorization header may not go on; None when it may."""
        if needed == "public" or (needed == "api" and not self._api):
            return None
        if needed == "admin" and not self._admin:
            return Forbidden(
                "changing adapters over HTTP is switched off: start the server with "
                "JUMPLORA_ADMIN_KEYS, or publish into its store folder"
            )
        if header is None:
            return Unauthorized("a key is required: Authorization: Bearer <key>")
        scheme, _, key = header.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            return Unauthorized("the header must read Authorization: Bearer <key>")
        given = hashlib.sha256(key.strip().encode("utf-8", errors="replace")).hexdigest()
        is_admin = _matches(given, self._admin)
        is_api = _matches(given, self._api)
        if is_admin or (is_api and needed == "api"):
            return None
        if is_api:
            return Forbidden("this key may generate and read; changing adapters takes an admin key")
        return Unauthorized("the key is not known")


def _matches(given: str, hashes: Sequence[str]) -> bool:
    # All are compared, so that time does not tell which one nearly matched.
    return sum(hmac.compare_digest(given, known) for known in hashes) > 0
