"""How a request names its task: what a name may be, and that all places which give one agree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, TypeVar

from fastapi import Header, Request

from jumplora_adapters.errors import TaskIdInvalid
from jumplora_adapters.manifest import check_task_id
from jumplora_adapters.routing import CURRENT_NAME, STAGED_NAME, is_alias
from jumplora_server.access.caller import Caller
from jumplora_server.api.ask import record_of
from jumplora_server.api.route import TASK_HEADER, VERSION_HEADER
from jumplora_server.errors import Forbidden, InvalidInput, UnknownTask
from jumplora_server.residency.entries import unknown_task
from jumplora_server.services import Services

NONE_YET = "this server has no task yet: `jumplora publish` brings one"  # behind what is missing
HEADER = f"the header {TASK_HEADER}"
TaskHeader = Annotated[
    str | None,
    Header(alias=TASK_HEADER, description="may carry the task; must agree with what names it too"),
]
_VERSION = re.compile(r"[0-9a-f]{8,64}", re.ASCII)
Name = TypeVar("Name", bound="str | None")


def check_task(task: str) -> str:
    """Return a plain task id unchanged. Raises InvalidInput."""
    try:
        return check_task_id(task)
    except TaskIdInvalid as error:
        raise InvalidInput(str(error), reason="task_id") from error


def check_spec(spec: str) -> str:
    """Return "task" or "task@version" (a name, or 8 to 64 hex digits) unchanged. Raises
    InvalidInput."""
    task, at, version = spec.partition("@")
    check_task(task)
    if at:
        check_version(version, "after the @ come")
    return spec


def check_version(version: str, where: str) -> str:
    """Return what names a version of some task unchanged. Raises InvalidInput."""
    is_name = version in (STAGED_NAME, CURRENT_NAME) or is_alias(version)
    if not is_name and _VERSION.fullmatch(version) is None:
        raise InvalidInput(
            f"version {version[:80]!r} is not allowed: {where} 8 to 64 of the digits 0-9 and a-f, "
            "the beginning of a version's digest, or a name: staged, current or an alias",
            reason="task_id",
        )
    return version


def with_version(task: str | None, header: str | None) -> str | None:
    """The task that a request names, of the version that its header names, if it has that.

    Raises InvalidInput where both name a version and they disagree, and for the bare backbone.
    """
    if header is None:
        return task
    check_version(header, f"the header {VERSION_HEADER} has")
    if task is None:
        raise InvalidInput(f"{VERSION_HEADER}: the bare backbone has no versions; leave it out")
    name, at, version = task.partition("@")
    if at and version != header:
        raise InvalidInput(
            f"the header {VERSION_HEADER}: {_shown(header)} disagrees with {_shown(task)}; give "
            "one of them"
        )
    return f"{name}@{header}"


def check_known_spec(spec: str) -> str:
    """The same, where no task can have another name. Raises UnknownTask."""
    try:
        return check_spec(spec)
    except InvalidInput as error:
        raise UnknownTask(error.message) from error


def agreed_name(given: Mapping[str, Name], default: str | None, missing: str) -> Name | str:
    """The name that all of the given places have; `default` where none gives one.

    Raises InvalidInput where two disagree, and with the text `missing` where there is no default.
    """
    if not given:
        if default is None:
            raise InvalidInput(missing)
        return default
    check_agreement(given)
    return next(iter(given.values()))


def check_agreement(given: Mapping[str, str | None]) -> None:
    """Raise InvalidInput where two of the given places disagree. There is at least one."""
    (first_place, first), *others = given.items()
    for place, name in others:
        if name != first:
            raise InvalidInput(
                f"{first_place}: {_shown(first)} disagrees with {_shown(name)} in {place}; "
                "give one of them"
            )


def _shown(name: str | None) -> str:
    return "null" if name is None else ascii(name[:100])


def check_visible(caller: Caller, task: str) -> str:
    """Return a task unchanged. Raises UnknownTask where it does not exist for the caller."""
    if not caller.may_see(task):
        raise unknown_task(task)
    return task


def named_task(request: Request, task: str) -> str:
    """The task that a request is for, unchanged and noted in its record.

    Raises InvalidInput, and UnknownTask where it does not exist for the caller.
    """
    record = record_of(request.scope)
    record.task = check_task(task)
    return check_visible(record.caller, task)


def changed_task(request: Request, task: str) -> str:
    """The task that a request changes, as `named_task`. Raises Forbidden where the key is not for
    it, with the same words whether or not there is such a task."""
    record = record_of(request.scope)
    record.task = check_task(task)
    if not record.caller.may_see(task):
        record.refused_for = "task"
        raise Forbidden(
            f"this key may change adapters of its own tasks only, and {task!r} is none of them"
        )
    return task


def default_task(services: Services, caller: Caller) -> str | None:
    """The task spec of requests that name none; None where the caller may not see that one."""
    spec, settings = services.settings.default_task, services.settings
    if spec is None:
        return None
    task = settings.base_name if spec in services.backbone_names else spec.partition("@")[0]
    return spec if caller.may_see(task) else None


def has_tasks(services: Services, caller: Caller) -> bool:
    """Whether any task exists for the caller."""
    if caller.tasks is None:
        return services.residency.tasks > 0
    return any(map(caller.may_see, services.residency.routes))


def visible_tasks(routes: Iterable[str], caller: Caller) -> list[str]:
    """Those of all registered tasks that exist for the caller, sorted."""
    return sorted(filter(caller.may_see, routes))
