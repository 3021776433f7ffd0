"""Whether a request is let in, and as whom: by what it needs, its header, and the keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from jumplora_server.access.caller import ANYBODY, Caller, Scope
from jumplora_server.access.keyring import Keyring
from jumplora_server.access.needs import ENOUGH, Need
from jumplora_server.errors import Forbidden, ServerError, Unauthorized

RefusedFor = Literal["missing", "unknown", "expired", "scope", "task"]
"""`missing`: no key, or none that can be read; `task`: the key's tasks do not have it."""
HOW = "Authorization: Bearer <key>"
ADMIN_KEY_NEEDED = "changing adapters takes an admin key"
CHANGES_ARE_OFF = (
    "changing adapters over HTTP is switched off: start the server with JUMPLORA_ADMIN_KEYS, give "
    "a key of JUMPLORA_KEYS_FILE the scope admin, or publish into its store folder"
)
_DOING: Mapping[Need, str] = MappingProxyType(
    {
        "look": "looking at models",
        "infer": "generating",
        "read": "reading adapters and the overview",
        "metrics": "reading metrics",
        "admin": "changing adapters",
        "closed": "this route",
    }
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not let in, and the answer that it gets. `caller` is whose key it was, where
    the key is known."""

    reason: RefusedFor
    error: ServerError
    caller: Caller = ANYBODY


def admitted(keyring: Keyring, need: Need, header: str | None, now: float) -> Caller | Refusal:
    """Who asks, by the Authorization header. `now` is in Unix seconds."""
    if need == "public":
        return ANYBODY
    if need == "admin" and not keyring.has("admin"):
        return Refusal("scope", Forbidden(CHANGES_ARE_OFF))
    secret = _secret_of(header)
    key = None if secret is None else keyring.find(secret)
    if keyring.is_open and need not in ("admin", "closed"):
        # A key that is not known does no harm here, and stock clients send one.
        return ANYBODY if key is None or key.is_expired(now) else key.caller
    if header is None:
        return Refusal("missing", Unauthorized(f"a key is required: {HOW}"))
    if secret is None:
        return Refusal("missing", Unauthorized(f"the header must read {HOW}"))
    if key is None:
        return Refusal(
            "unknown", Unauthorized("the key is not known: ask the server's operator for one")
        )
    if key.expires is not None and key.is_expired(now):
        at = key.expires.strftime("%Y-%m-%d %H:%M:%S UTC")
        message = f"the key {key.id} expired at {at}: ask the server's operator for another one"
        return Refusal("expired", Unauthorized(message), key.caller)
    if key.scopes.isdisjoint(ENOUGH[need]):
        return Refusal("scope", Forbidden(_lacking(key.scopes, need)), key.caller)
    return key.caller


def in_order(scopes: frozenset[Scope]) -> list[Scope]:
    """Scopes as all texts list them."""
    return [scope for scope in ENOUGH["any"] if scope in scopes]


def _lacking(scopes: frozenset[Scope], need: Need) -> str:
    noun = "scope" if len(scopes) == 1 else "scopes"
    enough = " or ".join(ENOUGH[need]) or "none that there is"
    return f"this key has the {noun} {', '.join(in_order(scopes))}; {_DOING[need]} takes {enough}"


def _secret_of(header: str | None) -> str | None:
    """The key in a header that can be read."""
    scheme, _, key = (header or "").partition(" ")
    return (key.strip() or None) if scheme.lower() == "bearer" else None
