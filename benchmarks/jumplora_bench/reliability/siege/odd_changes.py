"""Odd requests with the operator's key: uploads that are none, odd names, odd bodies."""

from __future__ import annotations

import json
import random

from jumplora_bench.reliability.siege.odd_bodies import ODD_VALUES
from jumplora_bench.reliability.siege.shot import TASKS, Headers, Kind, Shot, head

KEY = "@KEY@"
"""The sender puts the key in its place."""
_NAMES = (
    "new", "a/b", "..", "%2e%2e", "%00", "a%0ab", "%E2%80%AE", "a" * 64, "a" * 65, "x@y", "@",
    "base",
    ".lock", "CON", "%1b%5b2J", "new/../other", "%F0%9F%98%80", "-", "a%20b",
)  # fmt: skip


def _sent(method: str, path: str, body: bytes, *more: tuple[str, str]) -> bytes:
    headers: Headers = [
        ("authorization", f"Bearer {KEY}"), ("content-length", str(len(body))), *more,
    ]  # fmt: skip
    return head(method, f"/v1/adapters/{path}", headers) + body


def odd_upload(rng: random.Random) -> Shot:
    """Files that are none, under sound and odd names."""
    header = json.dumps({"__metadata__": {"jumplora": rng.choice(("", "{}", "[" * 500, "\x1b"))}})
    size = rng.choice((len(header), 0, 2**63 - 1, 2**64 - 1, len(header) + 1))
    body = rng.choice((
        b"", b"{}", rng.randbytes(500), bytes(100_000), size.to_bytes(8,
        "little") + header.encode(),
        size.to_bytes(8, "little") + b"{" * 1000,
    ))  # fmt: skip
    more = rng.choice((("if-match", '"x"'), ("if-match", "*"), ("x-content-sha256", "0" * 64)))
    return Shot(_sent("PUT", rng.choice(_NAMES), body, more), ("PUT",), may_be_cut=True)


def odd_change(rng: random.Random) -> Shot:
    """Rollback, load and pin with odd bodies, of a served task too; DELETE of what is not there."""
    verb = rng.choice(("/rollback", "/load", "/pin", ""))
    body = rng.choice((
        b"", b"null", b"[]", b"{", b'{"version": "0"}', b'{"version": "' + b"f" * 64 + b'"}',
        b'{"pinned": "pinned"}', b'{"pinned": "\\u202e"}', b'{"pinned": "pinned", "pinned": "x"}',
        json.dumps({"version": rng.choice(ODD_VALUES), "pinned": rng.choice(ODD_VALUES)}).encode(),
    ))  # fmt: skip
    # A served task stays: without it most other requests would be of an unknown one.
    served = (TASKS[-1],) if verb else ()
    name = rng.choice((*_NAMES, *served, f"{TASKS[-1]}@{'0' * 8}"))
    method = "POST" if verb else rng.choice(("DELETE", "POST", "PATCH"))
    raw = _sent(method, name + verb, body, ("content-type", "application/json"))
    return Shot(raw, (method,))


def odd_key(rng: random.Random) -> Shot:
    """Keys that are wrong, cut, doubled or of odd bytes: refused, whatever else the request is."""
    value: str | bytes = rng.choice((
        "", "Bearer", "Bearer ", f"Basic {KEY}", f"bearer  {KEY[:3]}", "Bearer \u202e",
        b"Bearer \xff",
        "Bearer " + "x" * 9000, "Bearer a\tb", "Bearer sha256:" + "0" * 64,
    ))  # fmt: skip
    raw = head("DELETE", "/v1/adapters/agnews", [("authorization", value)])
    return Shot(raw, ("DELETE",), frozenset((400, 401, 403, 431)))


CHANGES: dict[str, Kind] = {"odd upload": odd_upload, "odd change": odd_change, "odd key": odd_key}
