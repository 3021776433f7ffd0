"""The audit log: one line for each change of adapters over HTTP, and for each refused key.

A route that changes something says so with `begin_change`; who asked, from where and what came of
it is known here. A change that forgot it has a line too, without digests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fastapi import Request
from starlette.types import Scope

from jumplora_server.api.ask import RequestRecord, record_of
from jumplora_server.api.route_table import place_of
from jumplora_server.api.task_names import changed_task
from jumplora_server.errors import UnknownTask
from jumplora_server.services import Services

AUDIT_LOG = "jumplora.audit"
REFUSED_LINES = 10  # in a second, of callers without the right key; more are counted
MAX_TASK_CHARS = 100  # of a task that was refused, which may be any text
Outcome = Literal["done", "refused", "failed"]
_REFUSALS = frozenset({"unauthorized", "forbidden"})
_log = logging.getLogger(AUDIT_LOG)


@dataclass(slots=True)
class Change:
    """What is known of a change while it is made. `version` is the digest that it is about,
    `before` the one that was current when it began, and `has_changed` whether the store is another
    one than before."""

    who: dict[str, object]
    before: str | None
    version: str | None = None
    has_changed: bool = False

    def moved(self, version: str | None) -> None:
        """`version` is current now, which it may have been before; None where the task is gone."""
        self.version, self.has_changed = version, version != self.before

    def routed(self, version: str | None) -> None:
        """The routing has changed, by what was done with `version`."""
        self.version, self.has_changed = version, True

    def taken_back(self) -> None:
        """The store is as it was before."""
        self.has_changed = False

    def ended_late(self, error: BaseException | None) -> None:
        """Write a second line, behind the one of a request that was answered before its end."""
        outcome: Outcome = "done" if error is None else "failed"
        code = "-" if error is None else str(getattr(error, "code", "internal"))
        _write(self.line(outcome, code) | {"late": "yes"})

    def line(self, outcome: Outcome, code: str) -> dict[str, object]:
        """The fields of its line."""
        return self.who | {
            "version": self.version or "-",
            "before": self.before or "-",
            "changed": "yes" if self.has_changed else "no",
            "outcome": outcome,
            "error": code,
        }


def begin_change(request: Request, services: Services, task: str) -> Change:
    """Note in the request's record that it changes `task`. Raises what `changed_task` does."""
    record = record_of(request.scope)
    changed_task(request, task)
    try:
        before = services.residency.status(task).desired
    except UnknownTask:
        before = None
    change = Change(_who(request.scope, record) | {"task": task}, before)
    record.change = change
    return change


class Audit:
    """Writes the lines. Lines of callers without the right key are few in a second, because
    anybody can cause them; how many had none is said a second later."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._written = 0
        self._left_out = 0

    def ended(self, scope: Scope, record: RequestRecord, status: int, *, is_change: bool) -> None:
        """Write the line of a request that has ended, if it is to have one. `is_change`: by its
        method and path it changes adapters."""
        if is_change:
            may_change = record.change is not None or "admin" in record.caller.scopes
            if may_change or self._has_room():
                change = record.change or Change(_who(scope, record), None)
                _write(change.line(_outcome(status), record.error or _code(status)))
        elif record.error in _REFUSALS and self._has_room():
            _write(_who(scope, record) | {"outcome": "refused", "error": record.error})

    def _has_room(self) -> bool:
        now = self._clock()
        if now - self._since >= 1.0:
            self._since, self._written = now, 0
        if self._written < REFUSED_LINES:
            self._written += 1
            return True
        if self._left_out == 0:
            asyncio.get_running_loop().call_later(1.0, self._say_left_out)
        self._left_out += 1
        return False

    def _say_left_out(self) -> None:
        _log.info(
            "refused keys that have no line of their own",
            extra={"fields": {"count": self._left_out, "outcome": "refused"}},
        )
        self._left_out = 0


def _who(scope: Scope, record: RequestRecord) -> dict[str, object]:
    place = place_of(scope)
    return {
        "request_id": record.request_id,
        "client": record.client,
        "key": record.caller.key_id or "-",
        "action": place.name,
        "task": place.parts.get("task_id", record.task or "-")[:MAX_TASK_CHARS],
    }


def _outcome(status: int) -> Outcome:
    if 200 <= status < 400:
        return "done"
    return "refused" if 400 <= status < 499 else "failed"


def _code(status: int) -> str:
    """Where no error was noted: 0 is a request that was cut off without an answer."""
    if 200 <= status < 400:
        return "-"
    return "cut_off" if status == 0 else f"http_{status}"


def _write(line: dict[str, object]) -> None:
    _log.info("change" if "version" in line else "refused", extra={"fields": line})
