"""Which task a request names: one value from body, path and header, which must agree."""

from __future__ import annotations

import re
from collections.abc import Mapping

from jumplora_adapters.errors import TaskIdInvalid
from jumplora_adapters.manifest import check_task_id
from jumplora_server.api.schemas import GenerateRequest
from jumplora_server.errors import InvalidInput

TASK_HEADER = "x-task-id"
_VERSION = re.compile(r"[0-9a-f]{8,64}", re.ASCII)


def check_task(task: str) -> str:
    """Return a plain task id unchanged. Raises InvalidInput."""
    try:
        return check_task_id(task)
    except TaskIdInvalid as error:
        raise InvalidInput(str(error), reason="task_id") from error


def check_spec(spec: str) -> str:
    """Return "task" or "task@version" (8 to 64 hex digits) unchanged. Raises InvalidInput."""
    task, at, version = spec.partition("@")
    check_task(task)
    if at and _VERSION.fullmatch(version) is None:
        raise InvalidInput(
            f"version {version[:80]!r} is not allowed: after the @ come 8 to 64 of the digits"
            " 0-9 and a-f, the beginning of a version's digest",
            reason="task_id",
        )
    return spec


def named_task(
    body: GenerateRequest, *, path: str | None = None, header: str | None = None
) -> str | None:
    """The task spec of a request; None where a null was given everywhere (the bare backbone).

    Raises InvalidInput when no place names a task or two places disagree.
    """
    given: dict[str, str | None] = {}
    if path is not None:
        given["the path"] = path
    if header is not None:
        given[f"the header {TASK_HEADER}"] = header
    for name in ("task_id", "adapter_id", "model"):
        if name in body.model_fields_set:
            given[name] = getattr(body, name)
    if "adapter_id" in body.parameters.model_fields_set:
        given["parameters.adapter_id"] = body.parameters.adapter_id
    if not given:
        raise InvalidInput(
            'task_id: is missing; name a task, as in {"task_id": "agnews", ...}, '
            f"or send the header {TASK_HEADER}"
        )
    _check_agreement(given)
    spec = next(iter(given.values()))
    return spec if spec is None else check_spec(spec)


def _check_agreement(given: Mapping[str, str | None]) -> None:
    (first_name, first), *others = given.items()
    for name, value in others:
        if value != first:
            raise InvalidInput(
                f"{first_name} and {name} disagree: {_shown(first)} and {_shown(value)}"
            )


def _shown(value: str | None) -> str:
    return "null" if value is None else ascii(value[:100])
