"""What the HTTP server refuses by itself, in the form that all errors of the server have."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Literal

from starlette.exceptions import HTTPException

from jumplora_adapters.printable import shown

Reason = Literal[
    "head",
    "head_size",
    "head_timeout",
    "body",
    "body_timeout",
    "bodies",
    "connections",
    "descriptors",
    "read_timeout",
]
"""What refusals are counted by: a head or body that is malformed, too large or too slow, no room
for a body or a connection, no file descriptor, and an answer that was not read in time."""

_CODES = {
    400: "bad_request",
    405: "method_not_allowed",
    408: "request_timeout",
    414: "target_too_long",
    417: "expectation_failed",
    431: "head_too_large",
    503: "overloaded",
}
_MAX_MESSAGE_CHARS = 1024


class Refused(HTTPException):
    """A request that is not taken; the connection is closed behind its answer.

    Raised by `receive` where the app has the request already, so that its answer has a request id
    and a line in the access log like all others.
    """

    def __init__(self, status: int, reason: Reason, message: str) -> None:
        headers = {"connection": "close"}
        if status == 503:
            headers |= {"retry-after": "1", "x-jumplora-shed": "1"}
        if status == 405:
            headers["allow"] = "GET, HEAD, POST, PUT, DELETE, OPTIONS"
        super().__init__(status, message, headers)
        self.code = _CODES[status]
        self.reason: Reason = reason

    def answer(self, date: bytes) -> bytes:
        """The whole answer, for a request that never reached the app."""
        body = error_body(self.code, self.detail)
        fields = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            **(self.headers or {}),
        }
        phrase = HTTPStatus(self.status_code).phrase
        lines = [f"HTTP/1.1 {self.status_code} {phrase}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        return "\r\n".join(lines).encode() + b"\r\n" + date + b"\r\n" + body


def error_body(code: str, message: str) -> bytes:
    """The body that every error of the server has."""
    return json.dumps({"error": shown(message, _MAX_MESSAGE_CHARS), "error_type": code}).encode()
