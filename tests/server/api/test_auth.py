"""Which key opens what."""

from __future__ import annotations

import hashlib
from typing import get_args

import pytest
from jumplora_server.api.auth import Access, KeyCheck, needed_access
from jumplora_server.errors import Forbidden, ServerError, Unauthorized


async def nothing(*_: object) -> None: ...


def check(needed: Access, header: str | None, *, admin: str = "", api: str = "") -> str:
    def hashes(keys: str) -> list[str]:
        return [hashlib.sha256(key.encode()).hexdigest() for key in keys.split()]

    gate = KeyCheck(nothing, admin_hashes=hashes(admin), api_hashes=hashes(api))
    refusal: ServerError | None = gate.refusal(needed, header)
    return {Unauthorized: "401", Forbidden: "403", type(None): "ok"}[type(refusal)]


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/livez", "public"),
        ("GET", "/readyz", "public"),
        ("GET", "/health", "public"),
        ("GET", "/metrics", "api"),
        ("POST", "/generate", "api"),
        ("POST", "/v1/tasks/a/generate", "api"),
        ("GET", "/v1/adapters", "api"),
        ("GET", "/v1/adapters/a", "api"),
        ("PUT", "/v1/adapters/a", "admin"),
        ("DELETE", "/v1/adapters/a", "admin"),
        ("POST", "/v1/adapters/a/rollback", "admin"),
        ("PATCH", "/v1/adapters", "admin"),
        ("GET", "/anything/else", "api"),
        ("GET", "/livez/", "api"),
    ],
)
def test_needed_access(method: str, path: str, needed: Access) -> None:
    assert needed_access(method, path) == needed
    assert needed in get_args(Access)


NO_KEYS: dict[str, str] = {}
ADMIN_ONLY = {"admin": "root-key"}
BOTH = {"admin": "root-key", "api": "one two"}
API_ONLY = {"api": "one"}


@pytest.mark.parametrize(
    ("keys", "needed", "header", "answer"),
    [
        (NO_KEYS, "public", None, "ok"),
        (NO_KEYS, "api", None, "ok"),
        (NO_KEYS, "api", "Bearer whatever", "ok"),
        (NO_KEYS, "admin", None, "403"),
        (NO_KEYS, "admin", "Bearer whatever", "403"),
        (ADMIN_ONLY, "api", None, "ok"),
        (ADMIN_ONLY, "admin", None, "401"),
        (ADMIN_ONLY, "admin", "Bearer wrong", "401"),
        (ADMIN_ONLY, "admin", "Bearer root-key", "ok"),
        (ADMIN_ONLY, "admin", "bearer root-key", "ok"),
        (ADMIN_ONLY, "admin", "Basic root-key", "401"),
        (ADMIN_ONLY, "admin", "Bearer ", "401"),
        (BOTH, "public", None, "ok"),
        (BOTH, "api", None, "401"),
        (BOTH, "api", "Bearer two", "ok"),
        (BOTH, "api", "Bearer root-key", "ok"),
        (BOTH, "api", "Bearer three", "401"),
        (BOTH, "admin", "Bearer two", "403"),
        (API_ONLY, "api", "Bearer one", "ok"),
        (API_ONLY, "admin", "Bearer one", "403"),
    ],
)
def test_keys(keys: dict[str, str], needed: Access, header: str | None, answer: str) -> None:
    assert check(needed, header, **keys) == answer
