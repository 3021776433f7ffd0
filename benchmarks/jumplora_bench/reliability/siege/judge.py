"""What is wrong with an answer to an odd request, whatever the request was."""

from __future__ import annotations

import json
import unicodedata

from jumplora_bench.reliability.siege.wire import Answer

MOST_ERROR_CHARS = 8192
_ACTING = frozenset(("Cc", "Zl", "Zp", "Cs"))  # moves a cursor, ends a line, or is half a character
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_DOCUMENTED = {
    (503, "queue_full"), (503, "draining"), (503, "store_busy"), (504, "timeout"),
    (507, "memory_budget"), (507, "store_full"),
}  # fmt: skip


def fault_of(answer: Answer, method: str, allowed: frozenset[int] | None = None) -> str | None:
    """None for an answer that a server may give; else "check: what came".

    `allowed` are the only statuses that the request may get, None for any but a 5xx.
    """
    told = f"{answer.status} {answer.body[:120]!r}"
    if any(not 32 <= byte < 127 for byte in answer.raw_head.replace(b"\r\n", b"")):
        return f"header bytes: {answer.raw_head[:160]!r}"
    if answer.status >= 500 and not _is_announced(answer):
        return f"5xx: {told}"
    if allowed is not None and answer.status not in allowed:
        return f"must be {' or '.join(map(str, sorted(allowed)))}: {told}"
    if method == "HEAD":
        return None
    if answer.status >= 400:
        return _fault_of_error(answer, told)
    if answer.headers.get("content-type", "").startswith("application/json"):
        return None if _parsed(answer.body) is not None else f"answer is not JSON: {told}"
    return None


def _is_announced(answer: Answer) -> bool:
    """Overload that says so, and the other refusals that README documents."""
    told = _parsed(answer.body)
    kind = told.get("error_type") if isinstance(told, dict) else None
    if answer.status == 503 and "retry-after" not in answer.headers:
        return False
    return (answer.status, kind) in _DOCUMENTED or "x-jumplora-shed" in answer.headers


def _fault_of_error(answer: Answer, told: str) -> str | None:
    body = _parsed(answer.body)
    if not isinstance(body, dict):
        return f"error form: {told}"
    error, kind = body.get("error"), body.get("error_type")
    if not (isinstance(error, str) and error and isinstance(kind, str) and kind):
        return f"error form: {told}"
    if len(error) > MOST_ERROR_CHARS:
        return f"error length: {len(error)} characters"
    acting = first_acting(error)
    return f"error text: U+{ord(acting):04X} in it: {error[:120]!r}" if acting else None


def first_acting(text: str) -> str:
    """The first character that acts on what shows it; "" where there is none."""
    return next((one for one in text if unicodedata.category(one) in _ACTING or one in _BIDI), "")


def _parsed(body: bytes) -> object | None:
    """The JSON value; None for no JSON, `null` and numbers that JSON does not have."""
    try:
        value: object = json.loads(body.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value


def _refuse(name: str) -> object:
    raise ValueError(name)
