"""Which tasks are registered and what they should serve, as the store says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jumplora_server.residency.overview import Tier, status_of
from jumplora_server.residency.shelf import Known, Shelf
from jumplora_server.residency.status import PinState, State, TaskStatus
from jumplora_server.routing import Route


class Tasks:
    """The routes and their statuses. Thread-safe."""

    def __init__(self, shelf: Shelf, tier: Tier) -> None:
        """`tier` is where the engine keeps adapters."""
        self._shelf = shelf
        self._tier = tier

    @property
    def routes(self) -> Mapping[str, Route]:
        """The routing table as it is now."""
        return self._shelf.table.routes

    def observe(self, task: str, desired: str, versions: tuple[str, ...]) -> None:
        """What the store says of a task now; registers it if it is new."""
        with self._shelf.lock:
            route = self._shelf.table.routes.get(task) or Route(task, desired, versions)
            failure = route.failure if route.desired == desired else None
            self._shelf.route(replace(route, desired=desired, versions=versions, failure=failure))
            self._shelf.leaving.discard(task)
            for version in tuple(self._shelf.slots.versions.values()):
                is_gone = version.digest not in versions and not version.is_served
                if version.facts.task == task and is_gone:
                    self._shelf.slots.retire(version.digest, "unload")
            self._shelf.manifests = {
                d: manifest
                for d, manifest in self._shelf.manifests.items()
                if d in self._shelf.slots.versions
            }
            self._shelf.poke()

    def expect(self, known: Known) -> None:
        """Let a task that serves nothing that loads serve a version that is loaded on first use."""
        with self._shelf.lock:
            route = self._shelf.table.routes.get(known.facts.task)
            if route is None:
                return
            served = None if route.served is None else route.served.version
            if served is None or self._shelf.slots.state(served) is State.FAILED:
                self._shelf.know(known)
                self._shelf.serve(route, known.facts.digest)

    def forget(self, task: str) -> None:
        """Route to it no more; what is in use of it ends by itself."""
        with self._shelf.lock:
            if task not in self._shelf.table.routes:
                return
            self._shelf.table = self._shelf.table.without(task)
            self._shelf.slots.pin(task, "unpinned")
            self._shelf.leaving.add(task)
            for version in tuple(self._shelf.slots.versions.values()):
                if version.facts.task == task and version.digest in self._shelf.slots.versions:
                    self._shelf.slots.retire(version.digest, "unload")
            self._shelf.poke()

    def pin(self, task: str, pinned: PinState) -> None:
        """Raises UnknownTask."""
        with self._shelf.lock:
            route = self._shelf.table.route(task)
            self._shelf.slots.pin(task, pinned)
            if pinned == "pinned" and route.served is not None:
                self._shelf.jobs.request("fetch", route.served.version)
            self._shelf.poke()

    def statuses(self) -> list[TaskStatus]:
        """All tasks, sorted, at one moment."""
        with self._shelf.lock:
            return [self._status(route) for _, route in sorted(self._shelf.table.routes.items())]

    def status(self, task: str) -> TaskStatus:
        """Raises UnknownTask."""
        with self._shelf.lock:
            return self._status(self._shelf.table.route(task))

    @property
    def used_bytes(self) -> int:
        """Bytes of all loading and resident versions."""
        with self._shelf.lock:
            return self._shelf.slots.used_bytes

    def _status(self, route: Route) -> TaskStatus:
        pinned: PinState = "pinned" if self._shelf.slots.is_pinned(route.task) else "unpinned"
        return status_of(route, self._shelf.slots.versions, pinned, self._tier)
