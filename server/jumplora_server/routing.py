"""Which version of a task answers: a pure, immutable table that is swapped whole, and the lease.

Knows nothing of threads, slots or files: residency changes the table under its lock and counts the
leases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType

from jumplora_adapters.manifest import Manifest
from jumplora_server.core import AdapterRef
from jumplora_server.errors import AdapterUnavailable, UnknownTask, UnknownVersion

_PREFIX = re.compile(r"[0-9a-f]{8,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Why a version could not be loaded. `code` is stable (the failed check), `message` is text."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Route:
    """One registered task: the version it should serve and the one it does serve.

    `versions` is the publishing history, oldest first. `failure` is that of `desired`, or of the
    pointer, which then may never have been read (`desired` is None).
    """

    task: str
    desired: str | None
    versions: tuple[str, ...]
    served: AdapterRef | None = None
    manifest: Manifest | None = None  # of `served`
    failure: LoadFailure | None = None


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
        """Resolve "task" or "task@prefix" (8 to 64 hex digits of a digest).

        A task that serves nothing yet is resolved to its desired version. Raises UnknownTask,
        UnknownVersion (none or several match), AdapterUnavailable (no version of it loads).
        """
        task, at, prefix = spec.partition("@")
        route = self.route(task)
        if not at:
            if route.served is not None:
                return route, route.served.version
            if route.failure is not None or route.desired is None:
                raise _unavailable(route)
            return route, route.desired
        if _PREFIX.fullmatch(prefix) is None:
            raise UnknownVersion(
                f"version {prefix!r} of task {task!r} is not 8 to 64 lower-case hex digits"
            )
        matches = [version for version in route.versions if version.startswith(prefix)]
        if len(matches) != 1:
            some, start = ("several versions", "start") if matches else ("no version", "starts")
            raise UnknownVersion(
                f"{some} of task {task!r} {start} with {prefix!r}; give more or"
                " other digits, see GET /v1/adapters/{task_id}"
            )
        return route, matches[0]


def unknown_task(task: str, closest: Sequence[str] = ()) -> UnknownTask:
    """The error of a task that is not registered, with the names that are like it."""
    hint = f"closest: {', '.join(closest)}" if closest else "see GET /v1/adapters"
    return UnknownTask(f"no adapter is registered for task {task!r}; {hint}")


def _unavailable(route: Route) -> AdapterUnavailable:
    failure = route.failure or LoadFailure("loading", "its pointer is still being read")
    return AdapterUnavailable(
        f"no version of task {route.task!r} could be loaded: {failure.message}",
        reason=failure.code,
    )


class Lease:
    """The right to use one version, counted from routing to the last token.

    Its maker holds a lease: `Residency.acquire` gives the caller one, and `EngineLoop.submit` takes
    another share for each sequence. The version stays loadable until all are released.
    """

    __slots__ = ("_count", "_held", "_uncount", "manifest", "ref")

    def __init__(
        self,
        ref: AdapterRef | None,
        manifest: Manifest | None,
        count: Callable[[], None],
        uncount: Callable[[], None],
    ) -> None:
        """Take over one count that was already made; `count` makes another, `uncount` drops one."""
        self.ref = ref
        self.manifest = manifest
        self._count = count
        self._uncount = uncount
        self._held = [ref]

    @classmethod
    def base(cls) -> Lease:
        """A lease on the bare backbone, which is never unloaded."""
        return cls(None, None, _nothing, _nothing)

    @property
    def is_released(self) -> bool:
        """Whether `release` was called."""
        return not self._held

    def share(self) -> Lease:
        """Another lease on the same version, released on its own. This one must still be held."""
        assert self._held, "a released lease cannot be shared"
        self._count()
        return Lease(self.ref, self.manifest, self._count, self._uncount)

    def release(self) -> None:
        """Give the count back. Any thread, any number of times."""
        try:
            self._held.pop()  # atomic: only one of several callers succeeds
        except IndexError:
            return
        self._uncount()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def _nothing() -> None:
    return None
