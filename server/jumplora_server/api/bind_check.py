"""Which requests each bind answers, where changes or metrics have a bind of their own."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from jumplora_server.access.gate import Refusal
from jumplora_server.access.live_keys import LiveKeys
from jumplora_server.access.needs import (
    ADAPTERS_PATH,
    METRICS_PATH,
    PUBLIC_PATHS,
    READING,
    is_at,
    needed_access,
)
from jumplora_server.api.ask import record_of
from jumplora_server.api.errors import server_error_response
from jumplora_server.binds import BIND_KEY, BindName
from jumplora_server.errors import Forbidden

# What reads beside the adapters, and what tries an adapter: the console's and the commands' routes.
ADMIN_READS = frozenset({"/info", "/v1/overview"})
ADMIN_TRIES = frozenset({"/generate", "/generate_stream"})
# As little as where changes are switched off: neither where the other bind is, nor whether a key
# is known.
CHANGES_ARE_ELSEWHERE = (
    "adapters cannot be changed at this address: the operator has a separate one for that"
)
METRICS_ARE_ELSEWHERE = (
    "metrics cannot be read at this address: the operator has a separate one for them"
)
ONLY_METRICS = "this address answers GET /metrics and probes only"
ONLY_CHANGES = (
    "this address is for changing adapters: it answers /v1/adapters, /v1/load_lora_adapter, "
    "/v1/unload_lora_adapter, /v1/overview, /info, /generate, /generate_stream, the pages and "
    "probes only"
)


def refusal_at(bind: BindName, method: str, path: str, separate: Collection[str]) -> str | None:
    """Why a bind does not answer a request; None where it does. `separate` are the other binds."""
    if path in PUBLIC_PATHS:  # probes
        return None
    needed = needed_access(method, path)
    if bind == "metrics":
        return None if path == METRICS_PATH else ONLY_METRICS
    if path == METRICS_PATH and "metrics" in separate:
        return METRICS_ARE_ELSEWHERE
    if bind == "admin":
        is_read = method in READING and (is_at(path, ADAPTERS_PATH) or path in ADMIN_READS)
        is_asked = is_read or needed in ("public", "admin") or path in ADMIN_TRIES
        return None if is_asked else ONLY_CHANGES
    return CHANGES_ARE_ELSEWHERE if needed == "admin" and "admin" in separate else None


class BindCheck:
    """Answers 403 to what is not asked where it is served, whatever the key; whose it is, if it is
    known, the logs say."""

    def __init__(self, app: ASGIApp, separate: Collection[str], keys: LiveKeys) -> None:
        self._app = app
        self._separate = separate
        self._keys = keys

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            bind: BindName = scope.get(BIND_KEY, "main")
            why = refusal_at(bind, scope["method"], scope["path"], self._separate)
            if why is not None:
                refusal, record = Forbidden(why), record_of(scope)
                found = self._keys.admit("any", Headers(scope=scope).get("authorization"))
                record.caller = found.caller if isinstance(found, Refusal) else found
                record.failed(refusal)
                await server_error_response(scope, refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)
