"""How a task's status is made of its route and its versions: a pure function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from jumplora_server.residency.status import PinState, State, TaskStatus
from jumplora_server.residency.version import Version
from jumplora_server.routing import Route

Tier = Literal["host", "device"]  # where the engine keeps adapters


def status_of(
    route: Route, versions: Mapping[str, Version], pinned: PinState, tier: Tier
) -> TaskStatus:
    """`versions` are all known ones, of any task."""
    own = [version for version in versions.values() if version.facts.task == route.task]
    served = None if route.served is None else versions[route.served.version]
    resident = sum(version.resident_bytes for version in own)
    if served is not None:
        state = served.state
    elif route.failure is not None and not any(v.state is State.LOADING for v in own):
        state = State.FAILED
    else:
        state = State.LOADING
    return TaskStatus(
        task_id=route.task,
        version=None if served is None or state is State.FAILED else served.digest,
        desired=route.desired,
        state=state,
        degraded=route.failure is not None,
        failure=route.failure,
        pinned=pinned == "pinned",
        in_flight=sum(version.leases for version in own),
        bytes_disk=0 if served is None else served.facts.disk_bytes,
        bytes_host=resident if tier == "host" else 0,
        bytes_device=resident if tier == "device" else 0,
        nonzeros=0 if served is None else served.nonzeros,
        density=0.0 if served is None else served.density,
        canary_accuracy=None if served is None else served.canary_accuracy,
        manifest=route.manifest,
        history=route.versions,
    )
