"""What is wrong with an answer to an odd request, whatever the request was."""

from __future__ import annotations

import json
import unicodedata
from typing import Literal

from jumplora_bench.reliability.siege.wire import Answer

MOST_ERROR_CHARS = 8192
_ACTING = frozenset(("Cc", "Zl", "Zp", "Cs"))  # moves a cursor, ends a line, or is half a character
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
Form = Literal["ours", "openai", "kserve"]
# Which form the errors have below a path; the longest one counts, and others are ours.
_FORMS: dict[str, Form] = {
    "/v1": "openai", "/v1/adapters": "ours", "/v1/overview": "ours", "/v1/tasks": "ours",
    "/v2": "kserve", "/version": "openai", "/tokenize": "openai", "/detokenize": "openai",
}  # fmt: skip
_DOCUMENTED = {
    (503, "queue_full"), (503, "draining"), (503, "store_busy"), (504, "timeout"),
    (507, "memory_budget"), (507, "store_full"),
}  # fmt: skip


def form_at(path: str) -> Form:
    """The form of errors at a path."""
    prefixes = [each for each in _FORMS if path == each or path.startswith(f"{each}/")]
    return _FORMS[max(prefixes, key=len)] if prefixes else "ours"


def fault_of(
    answer: Answer,
    method: str,
    allowed: frozenset[int] | None = None,
    form: Form | None = None,
) -> str | None:
    """None for an answer that a server may give; else "check: what came".

    `allowed` are the only statuses that the request may get, None for any but a 5xx. `form` is
    the one that an error must have, None: any of them.
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
        return _fault_of_error(answer, told, form)
    if answer.headers.get("content-type", "").startswith("application/json"):
        return None if _parsed(answer.body) is not None else f"answer is not JSON: {told}"
    return None


def _is_announced(answer: Answer) -> bool:
    """Overload that says so, and the other refusals that README documents."""
    told = _parsed(answer.body)
    kinds = _kinds(told) if isinstance(told, dict) else []
    if answer.status == 503 and "retry-after" not in answer.headers:
        return False
    if isinstance(told, dict) and _is_form(told, "kserve"):  # has no code: the status says it
        return answer.status in (503, 504, 507)
    is_documented = any((answer.status, kind) in _DOCUMENTED for kind in kinds)
    return is_documented or "x-jumplora-shed" in answer.headers


def _kinds(body: dict[str, object]) -> list[object]:
    """Where a form has the server's own code."""
    error = body.get("error")
    inner = [error.get("code")] if isinstance(error, dict) else []
    return [body.get("error_type"), body.get("reason"), *inner]


def _fault_of_error(answer: Answer, told: str, form: Form | None) -> str | None:
    body = _parsed(answer.body)
    forms: tuple[Form, ...] = ("ours", "openai", "kserve") if form is None else (form,)
    if isinstance(body, dict) and body.get("error_type") == "bad_request":
        forms = ("ours",)  # of a malformed head: there is not yet a path
    if not isinstance(body, dict) or not any(_is_form(body, each) for each in forms):
        return f"error form: {told}"
    error = body["error"]
    message = str(error["message"] if isinstance(error, dict) else error)
    if len(message) > MOST_ERROR_CHARS:
        return f"error length: {len(message)} characters"
    acting = first_acting(message)
    return f"error text: U+{ord(acting):04X} in it: {message[:120]!r}" if acting else None


def _is_form(body: dict[str, object], form: Form) -> bool:
    error, kind = body.get("error"), body.get("error_type")
    if form == "openai":
        return (
            body.keys() == {"error"}
            and isinstance(error, dict)
            and error.keys() == {"message", "type", "param", "code"}
            and all(isinstance(error[name], str) and error[name] for name in ("message", "type"))
            and all(isinstance(error[name], str | None) for name in ("param", "code"))
        )
    is_told = isinstance(error, str) and error != ""
    if form == "kserve":
        return is_told and body.keys() == {"error"}
    return is_told and isinstance(kind, str) and kind != ""


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
