"""What the residency table keeps and says, as values: the route of a task, a version of one.

Nothing here knows threads, slots' contents or files; only the table changes what can be changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Literal, NamedTuple

from jumplora_adapters.continual_record import ContinualRecord, continual_record
from jumplora_adapters.manifest import Manifest
from jumplora_adapters.routing import CURRENT_NAME, STAGED_NAME, Staged, is_alias
from jumplora_server.core import AdapterRef, Role
from jumplora_server.errors import (
    AdapterUnavailable,
    ServerError,
    UnknownTask,
    UnknownVersion,
)

MAX_FALLBACKS = 8  # older versions that are tried while newer ones fail
PinState = Literal["pinned", "unpinned"]
Reason = Literal["lru", "replaced", "unload"]
_PREFIX = re.compile(r"[0-9a-f]{8,64}", re.ASCII)


class CanaryReply(NamedTuple):
    """What a version answered to one of its canaries here. `got` is None where it was not asked."""

    got: str | None
    is_right: bool


@dataclass(frozen=True, slots=True)
class Replay:
    """What a version answered to its canaries, in their order; there is at least one."""

    replies: tuple[CanaryReply, ...]

    @property
    def accuracy(self) -> float:
        """The share that was right."""
        return sum(reply.is_right for reply in self.replies) / len(self.replies)


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Why a version could not be loaded. `code` is stable (the failed check), `message` is text.

    `narrow` is what a key of some tasks reads in its place; None: the same.
    """

    code: str
    message: str
    narrow: str | None = None

    def told(
        self,
        before: str = "",
        after: str = "",
        *,
        kind: type[ServerError] = AdapterUnavailable,
        retry_after: float | None = None,
    ) -> ServerError:
        """The error that says it, between two texts that any key may read."""
        return kind(
            f"{before}{self.message}{after}",
            reason=self.code,
            retry_after=retry_after,
            narrow=None if self.narrow is None else f"{before}{self.narrow}{after}",
        )


@dataclass(frozen=True, slots=True)
class Staging:
    """A staged version that is kept known: it `is_open` for its share of the task's requests once
    it passed here all that a current version must pass."""

    version: str
    is_open: bool = False


@dataclass(frozen=True)  # without slots: what is made of it once is kept in it
class Route:
    """One registered task: the version it should serve and the one it does serve.

    `versions` is the publishing history, oldest first. `failure` is that of `desired`, or of the
    pointer, which then may never have been read (`desired` is None). `staged` is what the store
    wants beside them, and `staging` how far that has come here. `aliases` are versions by name.
    """

    task: str
    desired: str | None
    versions: tuple[str, ...]
    served: AdapterRef | None = None
    manifest: Manifest | None = None  # of `served`
    failure: LoadFailure | None = None
    staged: Staged | None = None
    staging: Staging | None = None
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def role_of(self, digest: str) -> Role | None:
        """What a version is for the task; None where it only can be named."""
        if self.serves(digest):
            return "current"
        return "staged" if self.staged is not None and self.staged.version == digest else None

    @cached_property
    def continual(self) -> ContinualRecord | None:
        """What the served version notes of the continual run that made it, if one did. To read a
        note of a thousand tasks takes half a millisecond."""
        return None if self.manifest is None else continual_record(self.manifest.training)

    def serves(self, digest: str) -> bool:
        """Whether new requests are answered by that version."""
        return self.served is not None and self.served.version == digest

    def preferred(self, served: Version | None) -> tuple[str, ...]:
        """The versions that the task should serve, best first; empty where it serves the best.

        The desired one first. Behind it what served before, if that was ever loaded here; else the
        history, newest first, as after a restart, and not all of a long one: each costs a load.
        """
        if self.desired is None or (
            served is not None and served.digest == self.desired and served.is_resident
        ):
            return ()
        if served is not None and served.is_proven:
            return tuple(dict.fromkeys([self.desired, served.digest]))
        staged = None if self.staged is None else self.staged.version  # that is not proven at all
        newest = [d for d in self.versions[::-1] if d not in (self.desired, staged)]
        return (self.desired, *newest[:MAX_FALLBACKS])


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """All registered tasks."""

    routes: Mapping[str, Route] = field(default_factory=lambda: MappingProxyType({}))

    def with_route(self, route: Route) -> RoutingTable:
        """A copy in which `route` replaces the one of its task."""
        return RoutingTable(MappingProxyType({**self.routes, route.task: route}))

    def without(self, task: str) -> RoutingTable:
        """A copy that does not know `task`."""
        return RoutingTable(MappingProxyType({t: r for t, r in self.routes.items() if t != task}))

    def route(self, task: str) -> Route:
        """The route of `task`. Raises UnknownTask."""
        if task in self.routes:
            return self.routes[task]
        raise unknown_task(task)

    def version(self, spec: str) -> tuple[Route, str]:
        """Resolve "task", "task@name" (`staged`, `current` or an alias), or "task@prefix" (8 to 64
        hex digits of a digest).

        A task that serves nothing yet is resolved to its desired version. Raises UnknownTask,
        UnknownVersion (none or several match), AdapterUnavailable (no version of it loads).
        """
        task, at, prefix = spec.partition("@")
        route = self.route(task)
        if not at or prefix == CURRENT_NAME:
            if route.served is not None:
                return route, route.served.version
            if route.failure is not None or route.desired is None:
                raise _unavailable(route)
            return route, route.desired
        if prefix == STAGED_NAME or is_alias(prefix):
            return route, _named(route, prefix)
        if _PREFIX.fullmatch(prefix) is None:
            raise UnknownVersion(
                f"version {prefix!r} of task {task!r} is not 8 to 64 lower-case hex digits, and no "
                "name as staged, current or an alias"
            )
        matches = [version for version in route.versions if version.startswith(prefix)]
        if len(matches) != 1:
            some, start = ("several versions", "start") if matches else ("no version", "starts")
            raise UnknownVersion(
                f"{some} of task {task!r} {start} with {prefix!r}; give more or"
                " other digits, see GET /v1/adapters/{task_id}"
            )
        return route, matches[0]


def _named(route: Route, name: str) -> str:
    if name == STAGED_NAME:
        if route.staged is None:
            raise UnknownVersion(
                f"task {route.task!r} has no staged version: leave @staged out, or stage one with "
                "POST /v1/adapters/{task_id}/stage"
            )
        return route.staged.version
    if name in route.aliases:
        return route.aliases[name]
    names = f"its aliases are {', '.join(route.aliases)}" if route.aliases else "it has no alias"
    raise UnknownVersion(f"no version of task {route.task!r} is called {name[:80]!r}; {names}")


def unknown_task(task: str, closest: Sequence[str] = ()) -> UnknownTask:
    """The error of a task that is not registered, with the names that are like it."""
    hint = f"closest: {', '.join(closest)}" if closest else "see GET /v1/models"
    return UnknownTask(f"no adapter is registered for task {task!r}; {hint}", task=task)


def _unavailable(route: Route) -> ServerError:
    failure = route.failure or LoadFailure("loading", "its pointer is still being read")
    return failure.told(f"no version of task {route.task!r} could be loaded: ")


class State(StrEnum):
    """Where a version is. Only LOADING, READY and DRAINING ones hold bytes."""

    COLD = "COLD"
    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What the store tells of a version: its direct ancestors, oldest first, and its file size."""

    digest: str
    task: str
    ancestors: tuple[str, ...]
    disk_bytes: int
    profile_bytes: int = 0  # of these, what the engine never gets

    @property
    def guessed_bytes(self) -> int:
        """What the engine may need for it, before it was packed once."""
        return max(0, self.disk_bytes - self.profile_bytes)


@dataclass(frozen=True, slots=True)
class Freed:
    """A slot that nothing uses any more, to be removed from the engine."""

    slot: int
    task: str  # "": a trunk's
    version: str
    reason: Reason


@dataclass(slots=True, eq=False)
class Version:
    """One version and its users. Only Versions changes it."""

    facts: VersionFacts
    manifest: Manifest
    nbytes: int  # in the engine; guessed by the file until it was packed once
    parts: tuple[str, ...] | None = None  # as Known has them
    folds: tuple[Known, ...] = ()  # as Known has them
    size: Literal["guessed", "measured"] = "guessed"
    state: State = State.COLD
    slot: int = -1
    leases: int = 0  # from routing to the last token
    rows: int = 0  # cache rows that compute with it
    holds: int = 0  # loading or resident descendants
    serving: set[str] = field(default_factory=set)  # tasks whose routes name it
    is_proven: bool = False  # it was READY before
    is_yielding: bool = False  # no new rows: others wait for its room
    retired: Reason = "replaced"  # why it drains
    failure: LoadFailure | None = None  # FAILED only
    used: int = 0  # tick of the last lease or row
    since: int = 0  # tick at which it became READY
    nonzeros: int = 0
    density: float = 0.0
    replay: Replay | None = None  # that it passed; None: it has no canaries, or owes them

    @property
    def digest(self) -> str:
        """Its name."""
        return self.facts.digest

    @property
    def ref(self) -> AdapterRef:
        """What rows compute with."""
        return AdapterRef(self.facts.task, self.digest, (*self.facts.ancestors, self.digest))

    @property
    def is_trunk(self) -> bool:
        """Whether it is the first versions of a lineage, merged, instead of a version."""
        return bool(self.folds)

    @property
    def needs(self) -> tuple[str, ...]:
        """What has to be resident before it: its rows use these slots, then its own."""
        return self.facts.ancestors if self.parts is None else self.parts

    @property
    def folded_depth(self) -> int | None:
        """How many of its ancestors its trunk merges; None before its lineage was read."""
        if self.parts is None:
            return None
        ancestors = self.facts.ancestors
        return 0 if self.parts == ancestors else len(ancestors) - len(self.parts) + 1

    @property
    def owes_canaries(self) -> bool:
        """Whether it has canaries that it did not pass here yet.

        Once is enough while it is known: when it comes back after an eviction its bytes are the
        same, and requests wait for it.
        """
        return bool(self.manifest.canaries) and self.replay is None

    @property
    def is_served(self) -> bool:
        """Whether a task's route names it."""
        return bool(self.serving)

    @property
    def is_resident(self) -> bool:
        """Whether normal rows may use it."""
        return self.state in (State.READY, State.DRAINING)

    @property
    def resident_bytes(self) -> int:
        """Bytes that count against the budget."""
        return self.nbytes if self.is_resident or self.state is State.LOADING else 0

    @property
    def is_idle(self) -> bool:
        """Whether it is neither used nor needed."""
        return not (self.leases or self.rows or self.holds)

    @property
    def is_evictable(self) -> bool:
        """Whether no row computes with it and no lease is held that it must wait for."""
        return not self.rows and (not self.leases or self.is_yielding)


@dataclass(frozen=True, slots=True)
class Known:
    """A version as the store describes it, or a trunk.

    `parts` is what stands before its own slot: its ancestors, or a trunk and the ancestors after
    it; None while that was not decided. `folds` are the versions that a trunk merges, oldest first.
    """

    facts: VersionFacts
    manifest: Manifest
    parts: tuple[str, ...] | None = None
    folds: tuple[Known, ...] = ()


@dataclass(frozen=True, slots=True)
class Leased:
    """What a lease is on, and what that is for its task at this time; `is_drawn` as in Lease."""

    ref: AdapterRef
    manifest: Manifest
    role: Role | None = None
    is_drawn: bool = False


@dataclass(slots=True)
class Orders:
    """What the loader has to do for a change that was made."""

    fetch: list[str] = field(default_factory=list)  # versions that are waited for
    settle: list[str] = field(default_factory=list)  # tasks to try again now
    open: list[str] = field(default_factory=list)  # tasks whose staged versions were never loaded
    is_freed: bool = False  # something is to be tidied away
    is_room_made: bool = False  # loads that wait for room may be tried


def other_task(facts: VersionFacts, task: str) -> LoadFailure:
    """What is wrong with a version in the folder of a task that its manifest does not name."""
    what, advice = f"the manifest of version {facts.digest[:12]} names", f"made for {task!r}"
    return LoadFailure(
        "manifest",
        f"{what} task {facts.task!r}, not {task!r}: publish a file that was {advice}",
        narrow=f"{what} another task than {task!r}: publish a file that was {advice}",
    )


def check_task(facts: VersionFacts, task: str) -> None:
    if facts.task != task:
        raise unavailable(task, facts.digest, other_task(facts, task))


def unavailable(
    task: str, digest: str, failure: LoadFailure, retry_after: float | None = None
) -> ServerError:
    before = f"version {digest[:12]} of task {task!r} could not be loaded: "
    return failure.told(before, retry_after=retry_after)
