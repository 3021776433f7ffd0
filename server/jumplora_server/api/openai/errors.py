"""How OpenAI's dialect says what is wrong, and below which paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

from jumplora_server.api.dialect import Dialect, Fault

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# Codes of ours that OpenAI's clients know by another name.
_CODES = {
    "unknown_task": "model_not_found",
    "unknown_version": "model_not_found",
    "unauthorized": "invalid_api_key",
    "input_too_long": "context_length_exceeded",
    "task_quota": "rate_limit_exceeded",
    "key_quota": "rate_limit_exceeded",
}
_ROUTES = "POST /v1/chat/completions, POST /v1/completions, GET /v1/models"
_FIELD = re.compile(r"([A-Za-z_][A-Za-z0-9_.\[\]]{0,63}): ", re.ASCII)
_ABOUT_FIELDS = frozenset({"validation", "input_too_long"})


def error_object(fault: Fault, names_task: str = "model") -> Mapping[str, object]:
    """OpenAI's form. What was wrong with a field has the field's name before it, and
    `names_task` is the field that names a task."""
    kind = _TYPES.get(fault.status)
    if kind is None:
        kind = "invalid_request_error" if fault.status < 500 else "server_error"
    message, param = fault.message, None
    if fault.code in _ABOUT_FIELDS and (field := _FIELD.match(message)) is not None:
        param = field[1]
    if fault.code in ("unknown_task", "unknown_version"):
        param = names_task
    if fault.code == "not_found":
        message += f". Of OpenAI's API there are {_ROUTES}"
    code = _CODES.get(fault.code, fault.code)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


# A body that is too large keeps 413, which proxies look for.
_STATUSES = {"validation": 400, "adapter_refused": 400, "input_too_long": 400}
OPENAI = Dialect(error_object, _STATUSES)
OF_ADAPTERS = Dialect(
    partial(error_object, names_task="lora_name"), _STATUSES
)  # as vLLM names them
FORMS: Mapping[str, Dialect | None] = {
    "/v1": OPENAI,
    "/v1/adapters": None,
    "/v1/overview": None,
    "/v1/tasks": None,
}
