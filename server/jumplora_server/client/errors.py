"""What a call raises: one tree, by what a caller can do about it.

RequestFailed
├── Unreachable     no answer, or not a whole one
├── KeyRefused      401, 403
├── TaskUnknown     404
├── InputRefused    the other 4xx: the same again will not help
├── Overloaded      429, 503: later it may
└── ServerFailed    the other 5xx

A message never has the key, and no text of a prompt but for what the server repeats of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import copy
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Self

from jumplora_server import errors as of_server


class RequestFailed(Exception):
    """A call did not come to its answer.

    `message` is what the server said, or why it said nothing. `str()` also has what was sent where
    and what to do. `status` is that of the answer; 0 where there was none. An error within a stream
    has the status that its code has elsewhere. `code` is the server's stable `error_type`
    ("unreachable", "timeout" or "broken_off" where no answer came, "http" where it was not this
    server's, "address", "key" or "input" where nothing was sent). `reason` is the check behind it,
    if there is one, and `retry_after` how many seconds the server asked to wait.
    """

    advice: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "http",
        reason: str | None = None,
        retry_after: float | None = None,
        asked: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.reason = reason
        self.retry_after = retry_after
        self.asked = asked

    def __str__(self) -> str:
        if not self.asked:
            return self.message
        status = f"{self.status} {self.code}" if self.status else self.code
        parts = [f"{self.asked}: {status}", self.advice]
        return f"{self.message} ({'; '.join(part for part in parts if part)})"

    def extended(self, more: str) -> Self:
        """The same error with more text behind its message."""
        error = copy(self)
        error.message += more
        error.args = (error.message,)
        return error


class Unreachable(RequestFailed):
    """No answer came, or not a whole one.

    `was_sent` says whether the server may have begun to act: False where no connection was made.
    """

    advice = "is a server running there? url= or JUMPLORA_SERVER names another one"
    was_sent = True


class KeyRefused(RequestFailed):
    """The server wants a key, does not know this one, or does not allow it this (401, 403)."""

    advice = "give a key that may do this: key=, or JUMPLORA_KEY beside JUMPLORA_SERVER"


class TaskUnknown(RequestFailed):
    """There is no such task or version (404)."""

    advice = "adapters() lists the tasks, adapter(task) its versions"


class InputRefused(RequestFailed):
    """The server does not take what was sent (the other 4xx). Sent again, it is refused again."""


class Overloaded(RequestFailed):
    """The server is busy, starting or stopping, or cannot load the adapter now (429, 503)."""

    advice = "try again later; retries= and max_wait= make a client more patient"


class ServerFailed(RequestFailed):
    """The server, or a proxy before it, failed (the other 5xx)."""

    advice = "the server's log says more"


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, asked: str, *, now: float
) -> RequestFailed:
    """The error that an answer tells. `now` in Unix seconds, for a Retry-After that is a date."""
    fields = _object(body)
    message, code = _said(fields, status)
    return _kind(status)(
        message,
        status=status,
        code=code,
        reason=_text(fields.get("reason")),
        retry_after=retry_after_seconds(headers.get("retry-after"), now),
        asked=asked,
    )


def broken_off(fields: Mapping[str, Any], asked: str) -> RequestFailed:
    """The error that the last event of a stream tells."""
    said = fields["error"]
    code = _text(fields.get("error_type")) or "http"
    status = _STATUSES.get(code, 500)
    return _kind(status)(
        said if isinstance(said, str) else "the stream broke off with an error",
        status=status,
        code=code,
        reason=_text(fields.get("reason")),
        asked=asked,
    )


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """Seconds to wait by a Retry-After header, which has a number or a date; None without one."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _statuses(kind: type[of_server.ServerError]) -> dict[str, int]:
    found = {kind.code: kind.status}
    for below in kind.__subclasses__():
        found |= _statuses(below)
    return found


_STATUSES = _statuses(of_server.ServerError)


def _kind(status: int) -> type[RequestFailed]:
    match status:
        case 401 | 403:
            return KeyRefused
        case 404:
            return TaskUnknown
        case 429 | 503:
            return Overloaded
        case _:
            return InputRefused if status < 500 else ServerFailed


def _object(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):  # a proxy's page, not our server's answer
        return {}
    return fields if isinstance(fields, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _said(fields: Mapping[str, Any], status: int) -> tuple[str, str]:
    """(message, code)."""
    error, code, checks = (fields.get(name) for name in ("error", "error_type", "checks"))
    if isinstance(error, str) and isinstance(code, str):
        return error, code
    if isinstance(checks, dict):  # of /readyz
        faults = "; ".join(f"{name}: {text}" for name, text in checks.items() if text != "ok")
        return f"the server is not ready: {faults}", "not_ready"
    return f"HTTP {status}", "http"
