"""What a caller of some tasks reads where others' names would stand, as pure functions.

To it the other tasks are not there. Which tasks it has says `Caller`; that a route asks for no
other one is for `task_names`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Protocol

from pydantic import JsonValue

from jumplora_adapters.continual_record import KEY as CONTINUAL
from jumplora_adapters.errors import HasDescendants
from jumplora_adapters.manifest import Manifest
from jumplora_server.access.caller import Caller
from jumplora_server.errors import ServerError
from jumplora_server.settings import Settings

# Of `training.continual`: what names no task, and what has one entry for each.
_OF_THE_RUN = ("run", "method", "gate", "split", "backward_transfer")
_BY_TASK = ("accuracy", "accuracy_when_learned")


class Told(Protocol):
    """A text of the server's, of which some callers read another form."""

    @property
    def message(self) -> str:
        """For callers of all tasks."""

    @property
    def narrow(self) -> str | None:
        """For callers of some; None: the same."""


def text_for(caller: Caller, told: Told) -> str:
    """What the caller reads of it."""
    return told.message if caller.tasks is None or told.narrow is None else told.narrow


def error_for(caller: Caller, error: ServerError) -> ServerError:
    """The error with the text that the caller reads. Several requests may have the same one, so it
    stays as it is."""
    text = text_for(caller, error)
    if text == error.message:
        return error
    seen = copy(error)
    seen.message = text
    return seen


def may_ask_base(settings: Settings, caller: Caller) -> bool:
    """Whether the bare backbone answers this caller: its tasks must have the backbone's task id."""
    return settings.allow_base == "yes" and caller.may_see(settings.base_name)


def base_of(settings: Settings, caller: Caller) -> str | None:
    """The task id by which the caller may ask for the bare backbone; None: it may not."""
    return settings.base_name if may_ask_base(settings, caller) else None


def descendants_for(caller: Caller, error: HasDescendants) -> str:
    """Why a version cannot be removed, naming only versions of tasks that the caller sees."""
    seen = [found for found in error.found if caller.may_see(found[0])]
    others = "a version of a task that this key does not see needs it: ask an operator"
    before = f"version {error.digest[:12]} is an ancestor"
    if not seen:
        return f"{before} of other versions; {others}"
    (task, version), rest = seen[0], "" if len(seen) == len(error.found) else f"; {others}"
    count = f"of {len(seen)} others, such as {task}@{version[:12]}"
    return f"{before} {count}: remove those first{rest}"


def manifest_for(caller: Caller, manifest: Manifest | None) -> Manifest | None:
    """A manifest without the other tasks of the continual run that made it."""
    if manifest is None or caller.tasks is None or CONTINUAL not in manifest.training:
        return manifest
    noted = manifest.training[CONTINUAL]
    record = _continual_for(caller, manifest.task, noted) if isinstance(noted, dict) else {}
    return manifest.model_copy(update={"training": {**manifest.training, CONTINUAL: record}})


def _continual_for(
    caller: Caller, task: str, noted: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    """Of the fields that are known, for another one may name tasks in its own way."""
    record = {name: noted[name] for name in _OF_THE_RUN if _is_plain(noted.get(name))}
    order = noted.get("order")
    tasks: list[JsonValue] = [
        each
        for each in (order if isinstance(order, list) else [])
        if isinstance(each, str) and caller.may_see(each)
    ]
    record["order"] = tasks
    if task in tasks:
        record["position"] = tasks.index(task) + 1
    for name in _BY_TASK:
        values = noted.get(name)
        if isinstance(values, dict):
            record[name] = {each: v for each, v in values.items() if caller.may_see(each)}
    return record


def _is_plain(value: JsonValue) -> bool:
    return isinstance(value, str | float | int)
