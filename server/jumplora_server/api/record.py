"""What is known of one HTTP request while it runs: for the log line and for counting.

Lives in the ASGI scope, made by the access middleware. Never holds a prompt or a key.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jumplora_server import errors
from jumplora_server.api.ask import ANYBODY, Caller
from jumplora_server.errors import ServerError

if TYPE_CHECKING:
    from jumplora_server.metrics.tasks import Outcome

SCOPE_KEY = "jumplora.record"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class RequestRecord:
    """`task` is what a metric may be labelled with: set once it was routed, else "".

    `counted_by` tells who counts the end: the sequences once there are some, before that the
    access middleware.
    """

    request_id: str
    caller: Caller = ANYBODY
    task: str | None = ""
    version: str | None = None
    prompt_tokens: int = 0
    generated_tokens: int = 0
    outcome: Outcome | None = None
    counted_by: Literal["middleware", "sequences"] = "middleware"

    def failed(self, error: ServerError) -> None:
        """Note how the request ended."""
        self.outcome = outcome_of(error)

    def refused(self, status: int) -> None:
        """Note that the framework or the HTTP server ended the request, with this status."""
        if status == 503:
            self.outcome = "shed"
        else:
            self.outcome = "client_invalid" if status < 500 else "error"

    def log_failure(self, error: Exception) -> None:
        """Log what the client does not see."""
        _log.error("request %s failed: %s", self.request_id, error, exc_info=error)


def outcome_of(error: ServerError) -> Outcome:
    """The closed set that metrics count by. Only the server's own failures burn its budget."""
    match error:
        case errors.UnknownTask() | errors.UnknownVersion():
            return "client_unknown_task"
        case errors.Unauthorized() | errors.Forbidden() | errors.BaseNotAllowed():
            return "client_auth"
        case errors.QueueFull() | errors.TaskQuotaExceeded() | errors.Draining():
            return "shed"
        case errors.DeadlineExceeded():
            return "timeout"
        case _:
            return "client_invalid" if error.status < 500 else "error"


def new_record(given_id: str | None) -> RequestRecord:
    """A record with the client's request id if it is a harmless one, else a random one."""
    if given_id is not None and _REQUEST_ID.fullmatch(given_id):
        return RequestRecord(given_id)
    return RequestRecord(secrets.token_hex(8))


def record_of(scope: MutableMapping[str, Any]) -> RequestRecord:
    """The scope's record; a new one where the middleware did not run."""
    record = scope.get(SCOPE_KEY)
    if not isinstance(record, RequestRecord):
        record = scope[SCOPE_KEY] = new_record(None)
    return record
