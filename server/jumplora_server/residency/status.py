"""What the operator sees of a task: a value, read from the table by a pure function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from jumplora_adapters.manifest import Manifest
from jumplora_adapters.routing import Staged
from jumplora_server.residency.entries import CanaryReply, LoadFailure, Route, State, Version
from jumplora_server.residency.table import Table

Tier = Literal["host", "device"]  # where the engine keeps adapters


@dataclass(frozen=True, slots=True)
class StagedStatus:
    """The version that the store stages beside the one that answers.

    It `is_open` once it gets its share: before that it is loaded and tried, or `failure` says why
    it gets none.
    """

    staged: Staged
    state: State
    is_open: bool
    failure: LoadFailure | None
    canary_accuracy: float | None

    @property
    def version(self) -> str:
        """Its digest."""
        return self.staged.version


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """One registered task.

    `version` answers requests (None: none was loaded yet, or none loads), `desired` is the store's
    pointer (None: it never could be read), `state` that of `version`. `failure` is why `desired`
    is not what answers, or why the pointer cannot be read; it is tried again in `retry_in` seconds,
    and at once when a file changes. `in_flight` counts leases. Bytes are those of all resident
    versions of the task, `bytes_disk` those of the served version's file. `nonzeros` and `density`
    are 0 until it was loaded once; `canary_accuracy` is None until its canaries were replayed here,
    and where it has none; `replies` are what it answered then. `folded_depth` is how many ancestors
    of the served version its trunk merges (0: it has no trunk, None: not decided before its first
    load), `trunk_bytes` what that trunk takes, which other versions may use as well. `history`
    lists the stored versions in the order in which they last became current; `aliases` are
    versions by name.
    """

    task_id: str
    version: str | None
    desired: str | None
    state: State
    degraded: bool
    failure: LoadFailure | None
    retry_in: float | None
    pinned: bool
    in_flight: int
    bytes_disk: int
    bytes_host: int
    bytes_device: int
    nonzeros: int
    density: float
    canary_accuracy: float | None
    folded_depth: int | None
    trunk_bytes: int
    manifest: Manifest | None
    history: tuple[str, ...]
    replies: tuple[CanaryReply, ...] = ()
    staged: StagedStatus | None = None
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def status_of(table: Table, task: str, tier: Tier, now: float) -> TaskStatus:
    """Raises UnknownTask."""
    route, own = table.routing.route(task), table.versions.of_task(task)
    served = None if route.served is None else table.versions.known.get(route.served.version)
    setback = table.setbacks.of(route)
    resident = sum(version.resident_bytes for version in own)
    if served is not None:
        state = served.state
    elif route.failure is not None and not any(v.state is State.LOADING for v in own):
        state = State.FAILED
    else:
        state = State.LOADING
    replay = None if served is None else served.replay
    return TaskStatus(
        task_id=route.task,
        version=None if served is None or state is State.FAILED else served.digest,
        desired=route.desired,
        state=state,
        degraded=route.failure is not None,
        failure=route.failure,
        retry_in=None if setback is None else max(0.0, setback.retry_at - now),
        pinned=table.versions.is_pinned(task),
        in_flight=sum(version.leases for version in own),
        bytes_disk=0 if served is None else served.facts.disk_bytes,
        bytes_host=resident if tier == "host" else 0,
        bytes_device=resident if tier == "device" else 0,
        nonzeros=0 if served is None else served.nonzeros,
        density=0.0 if served is None else served.density,
        canary_accuracy=None if replay is None else replay.accuracy,
        folded_depth=None if served is None else served.folded_depth,
        trunk_bytes=0 if served is None else _trunk_bytes(table, served),
        manifest=route.manifest,
        history=route.versions,
        replies=() if replay is None else replay.replies,
        staged=_staged(table, route),
        aliases=route.aliases,
    )


def _staged(table: Table, route: Route) -> StagedStatus | None:
    if route.staged is None:
        return None
    digest = route.staged.version
    version, setback = table.versions.known.get(digest), table.setbacks.get(route.task, digest)
    failure = table.why_shut(route) or (None if setback is None else setback.failure)
    replay = None if version is None else version.replay
    return StagedStatus(
        staged=route.staged,
        state=table.versions.state(digest) if failure is None else State.FAILED,
        is_open=route.staging is not None and route.staging.is_open,
        failure=failure,
        canary_accuracy=None if replay is None else replay.accuracy,
    )


def _trunk_bytes(table: Table, version: Version) -> int:
    used = [each for name in version.needs[:1] if (each := table.versions.known.get(name))]
    return sum(each.resident_bytes for each in used if each.is_trunk)
