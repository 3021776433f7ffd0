"""The state of residency: one lock, the routing table, the versions, and what keeps them in step.

Leases, Tasks and Loads are its three users; every method of theirs takes the lock, is short and
does no input or output. What has to be done elsewhere is asked of the loader through Jobs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from jumplora_adapters.manifest import Manifest
from jumplora_server.core import AdapterRef
from jumplora_server.residency import room
from jumplora_server.residency.jobs import Jobs
from jumplora_server.residency.slots import Slots
from jumplora_server.residency.version import Version, VersionFacts
from jumplora_server.routing import Route, RoutingTable


@dataclass(frozen=True, slots=True)
class Known:
    """A version as the store describes it."""

    facts: VersionFacts
    manifest: Manifest


class Shelf:
    """Everything here is to be touched with `lock` held, and jobs may be called then.

    The routing table is replaced whole, never changed: reading it once needs no lock.
    """

    def __init__(self, jobs: Jobs, budget_bytes: int, clock: Callable[[], float]) -> None:
        self.lock = threading.Lock()
        self.jobs = jobs
        self.clock = clock
        self.table = RoutingTable()
        self.slots = Slots(budget_bytes)
        self.manifests: dict[str, Manifest] = {}  # of the versions in `slots`
        self.leaving: set[str] = set()  # forgotten tasks of which something is in use

    def know(self, known: Known) -> None:
        """Enter a version that was read from the store."""
        self.slots.know(known.facts)
        self.manifests[known.facts.digest] = known.manifest

    def route(self, route: Route) -> None:
        """Put a route into the table."""
        self.table = self.table.with_route(route)

    def serve(self, route: Route, digest: str) -> None:
        """The flip: from here on `route`'s task is answered by `digest`."""
        ref, manifest = ref_of(self.slots.versions[digest]), self.manifests[digest]
        failure = None if digest == route.desired else route.failure
        self.route(replace(route, served=ref, manifest=manifest, failure=failure))
        self.slots.serve(digest)
        if route.served is not None and route.served.version != digest:
            self.slots.retire(route.served.version, "replaced")
        self.poke()

    def owes_canaries(self, digest: str) -> bool:
        """Whether a version has canaries that it did not pass here yet.

        Once is enough while it is known: when it comes back after an eviction its bytes are the
        same, and requests wait for it.
        """
        version, manifest = self.slots.versions.get(digest), self.manifests.get(digest)
        if version is None or manifest is None or not manifest.canaries:
            return False
        return version.canary_accuracy is None

    def beside(self, digest: str) -> str | None:
        """The version that `digest` would replace."""
        route = self.table.routes.get(self.slots.versions[digest].facts.task)
        served = None if route is None or route.served is None else route.served.version
        return served if served != digest else None

    def poke(self, digest: str | None = None) -> None:
        """Tell the loader what fell free: slots, tasks, or the use of one version."""
        version = None if digest is None else self.slots.versions.get(digest)
        if self.slots.has_freed or self.leaving:
            self.jobs.poke()
        elif version is None or room.is_evictable(version):
            self.jobs.room_made()


def ref_of(version: Version) -> AdapterRef:
    """What rows of this version need."""
    digest = version.digest
    return AdapterRef(version.facts.task, digest, (*version.facts.ancestors, digest))
