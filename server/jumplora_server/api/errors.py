"""Every error as TGI's `{"error", "error_type"}` with a stable code, or in its dialect's form."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Scope

from jumplora_adapters import errors as adapter_errors
from jumplora_adapters.errors import AdapterError
from jumplora_adapters.printable import shown, shown_value
from jumplora_server import errors
from jumplora_server.api.ask import record_of
from jumplora_server.api.dialect import Dialect, Fault, form_of
from jumplora_server.api.sight import descendants_for, error_for
from jumplora_server.errors import ServerError
from jumplora_server.http.refusal import Refused
from jumplora_server.residency.entries import unknown_task

CLIENT_CLOSED_REQUEST = 499  # nginx' number; only the log has a reader for it
MAX_FAULTS = 5
NO_OBJECT = "the body must be a JSON object, sent with content-type: application/json"
_log = logging.getLogger(__name__)
_MAX_MESSAGE_CHARS = 4096
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_HTTP_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}
_SHED = (errors.QueueFull, errors.TaskQuotaExceeded, errors.Draining)

# Which server error an adapters' error becomes; those of a file have the check as their reason.
_OF_ADAPTERS: tuple[tuple[type[AdapterError], type[ServerError]], ...] = (
    (adapter_errors.FormatError, errors.AdapterRefused),
    (adapter_errors.MissingAncestor, errors.AdapterRefused),
    (adapter_errors.ArchiveTooLarge, errors.AdapterTooLarge),
    (adapter_errors.ArchiveError, errors.AdapterRefused),
    (adapter_errors.WrongFile, errors.AdapterRefused),
    (adapter_errors.ConvertError, errors.AdapterRefused),
    (adapter_errors.TaskIdInvalid, errors.InvalidInput),
    (adapter_errors.AliasInvalid, errors.InvalidInput),
    (adapter_errors.UnknownTask, errors.UnknownTask),
    (adapter_errors.UnknownVersion, errors.UnknownVersion),
    (adapter_errors.HasDescendants, errors.AdapterInUse),
    (adapter_errors.VersionConflict, errors.VersionConflict),
    (adapter_errors.PromptTooLong, errors.InputTooLong),
)


# The texts of these name folders of the server, so the client gets another, and when to come back.
_OF_THE_STORE: tuple[tuple[type[AdapterError], type[ServerError], str, float], ...] = (
    (
        adapter_errors.StoreBusy,
        errors.StoreBusy,
        "other changes hold the adapter store longer than a request waits; nothing was changed: "
        "try again later, and if that does not help, look for a process that holds its .lock",
        5.0,
    ),
    (
        adapter_errors.StoreFull,
        errors.StoreFull,
        "the adapter store's disk or quota is full; nothing was changed: make room, then try again",
        60.0,
    ),
    (
        adapter_errors.StoreReadOnly,
        errors.StoreReadOnly,
        "the server may not write into its adapter store; nothing was changed: publish where the "
        "store is writable, or give the server's user the right to write",
        60.0,
    ),
    (
        adapter_errors.StoreError,  # the rest of them
        errors.StoreFault,
        "the adapter store is not as it should be; nothing was changed: the server's log says what "
        "an operator has to put right",
        10.0,
    ),
)


class BodyLost(HTTPException):
    """The client was gone before its whole body was there. The framework takes starlette's
    ClientDisconnect for a body that cannot be parsed; HTTPExceptions it passes on."""

    def __init__(self) -> None:
        super().__init__(CLIENT_CLOSED_REQUEST)


def as_server_error(error: AdapterError) -> ServerError:
    """The server's error for one of the adapters package; what is ours to repair is internal."""
    for fault, result, message, seconds in _OF_THE_STORE:
        if isinstance(error, fault):
            return result(message, reason=error.code, retry_after=seconds)
    for kind, answer in _OF_ADAPTERS:
        if isinstance(error, kind):
            return answer(error.message, reason=error.code)
    return ServerError("the adapter store failed; the server's log says why", reason=error.code)


def error_response(
    scope: Scope,
    status: int,
    code: str,
    message: str,
    *,
    reason: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error in the form of the route that the request is for."""
    form = form_of(scope) or PLAIN
    fault = Fault(form.statuses.get(code, status), code, shown_message(message), reason)
    return JSONResponse(form.error(fault), status_code=fault.status, headers=headers)


def error_body(fault: Fault) -> dict[str, object]:
    """The form of an error wherever no dialect has another: TGI's, with a reason."""
    body: dict[str, object] = {"error": fault.message, "error_type": fault.code}
    return body if fault.reason is None else body | {"reason": fault.reason}


PLAIN = Dialect(error_body)


def fault_of(error: ServerError, statuses: Mapping[str, int] | None = None) -> Fault:
    """What a stream that began well says of its end; the message is for its caller already."""
    status = (statuses or {}).get(error.code, error.status)
    return Fault(status, error.code, shown_message(error.message), error.reason)


def shown_message(message: str) -> str:
    """A message as answers have it: bounded, and safe to print whatever names it holds."""
    return shown(message, _MAX_MESSAGE_CHARS)


def server_error_response(scope: Scope, error: ServerError) -> Response:
    """An error of the server's tree; 429 and 503 say when to come back."""
    headers: dict[str, str] = {}
    if error.status in (429, 503):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after or 1.0)))
    if isinstance(error, _SHED):
        headers["x-jumplora-shed"] = "1"  # proxies should cap retries of these
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return error_response(
        scope, error.status, error.code, error.message, reason=error.reason, headers=headers
    )


def allowed_methods(scope: Scope) -> list[str]:
    """What may be asked of the path, OPTIONS apart; nothing where no route has it."""
    app: Starlette = scope["app"]
    any_path = scope["path"] == "*"
    found = [
        method
        for method in METHODS
        if any_path
        or any(
            route.matches({**scope, "method": method})[0] is Match.FULL
            for route in app.router.routes
        )
    ]
    if "GET" in found:
        found.insert(1, "HEAD")
    return found


def validation_message(faults: Sequence[Mapping[str, Any]]) -> str:
    """One line that names each field and what is allowed there."""
    shown = [_fault(fault) for fault in faults[:MAX_FAULTS]]
    if len(faults) > MAX_FAULTS:
        shown.append(f"and {len(faults) - MAX_FAULTS} more")
    return "; ".join(shown)


# Of pydantic's types of faults; what has no words here keeps pydantic's.
_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "missing": "is missing",
        "less_than": "must be less than {lt}",
        "less_than_equal": "must be at most {le}",
        "greater_than": "must be more than {gt}",
        "greater_than_equal": "must be at least {ge}",
        "finite_number": "must be a finite number",
        "string_too_short": "must have at least {min_length} characters",
        "string_too_long": "must have at most {max_length} characters",
        "too_short": "must have at least {min_length} items",
        "too_long": "must have at most {max_length} items",
        "literal_error": "must be {expected}",
        **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
        **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
        **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be an integer"),
        "extra_forbidden": "is not known here",
        "string_type": "must be a string",
        "list_type": "must be a list",
        **dict.fromkeys(("dict_type", "model_type"), "must be an object"),
    }
)


def _words(fault: Mapping[str, Any]) -> str:
    form = _WORDS.get(fault["type"])
    if form is None:
        return str(fault["msg"]).removeprefix("Value error, ")
    values = fault.get("ctx", {}).items()
    return form.format_map(
        {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in values}
    )


def _fault(fault: Mapping[str, Any]) -> str:
    location = [str(part) for part in fault["loc"] if part != "body"]
    kind = fault["type"]
    if kind == "json_invalid":
        why = fault.get("ctx", {}).get("error", "it cannot be parsed")
        return f"the body is not valid JSON: {why}"
    if not location and kind in ("missing", "model_type", "model_attributes_type", "dict_type"):
        return NO_OBJECT
    message = _words(fault)
    tells_itself = kind in ("value_error", "missing") or "input" not in fault
    given = "" if tells_itself else f" (given: {shown_value(fault['input'])})"
    name = ".".join(location)
    return f"{name}: {message}{given}" if name else message


def _as_seen(request: Request, error: ServerError) -> ServerError:
    """The error for its caller: a key of some tasks reads no other names, and of a task that it may
    not see the same as of one that is not there."""
    record = record_of(request.scope)
    if record.caller.tasks is None:
        return error
    if not isinstance(error, errors.UnknownTask):
        return error_for(record.caller, error)
    task = error.task or record.task
    if not task:  # no task can have such a name
        return error
    closest = request.app.state.services.residency.closest(task, record.caller.may_see)
    return unknown_task(task, closest)


async def _on_server_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServerError)
    error = _as_seen(request, error)
    record_of(request.scope).failed(error)
    return server_error_response(request.scope, error)


async def _on_adapter_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AdapterError)
    answer = as_server_error(error)
    if isinstance(error, adapter_errors.HasDescendants):
        answer.narrow = descendants_for(record_of(request.scope).caller, error)
    if answer.status == 500:
        record_of(request.scope).log_failure(error)
    elif answer.status > 500:
        _log.warning("request %s failed: %s", record_of(request.scope).request_id, error)
    return await _on_server_error(request, answer)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _on_server_error(request, errors.InvalidInput(validation_message(error.errors())))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, Refused):
        record_of(request.scope).refused(error.status_code, error.code)
        return error_response(
            request.scope, error.status_code, error.code, error.detail, headers=error.headers
        )
    if error.status_code == 400:  # what the framework raises for a body that it cannot read
        return await _on_server_error(
            request, errors.InvalidInput("the body could not be read as JSON")
        )
    code = _HTTP_CODES.get(error.status_code, "http")
    message, headers = str(error.detail), error.headers
    if error.status_code == 404:
        message = f"no route {request.method} {request.scope['path'][:100]}; see /openapi.json"
    if error.status_code == 405:
        allowed = ", ".join(allowed_methods(request.scope))
        message = f"{request.method} is not allowed here; allowed: {allowed}"
        headers = {"allow": allowed}
    record_of(request.scope).refused(error.status_code, code)
    return error_response(request.scope, error.status_code, code, message, headers=headers)


async def _on_hang_up(request: Request, error: Exception) -> Response:
    # While a body came in. The answer has no reader, and nothing is wrong here.
    del error
    record_of(request.scope).error = "client_gone"
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _on_anything(request: Request, error: Exception) -> Response:
    # Also reached outside our middleware, hence the request id by hand; the traceback is logged
    # by the HTTP server.
    record = record_of(request.scope)
    record.failed(ServerError(type(error).__name__))
    return error_response(
        request.scope,
        500,
        "internal",
        f"an error of the server's own; its log has more under request id {record.request_id}",
        headers={"x-request-id": record.request_id},
    )


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(ServerError, _on_server_error)
    app.add_exception_handler(AdapterError, _on_adapter_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(BodyLost, _on_hang_up)
    app.add_exception_handler(ClientDisconnect, _on_hang_up)  # of an upload
    app.add_exception_handler(Exception, _on_anything)
