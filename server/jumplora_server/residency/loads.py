"""What a load changes, from its candidates to the flip. Called by the loader's thread."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from jumplora_server.residency.jobs import Failures
from jumplora_server.residency.shelf import Known, Shelf
from jumplora_server.residency.slots import Room
from jumplora_server.residency.status import State
from jumplora_server.residency.version import Freed, VersionFacts
from jumplora_server.routing import LoadFailure, Route


class Loads:
    """The loader's view of the shelf. Thread-safe."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def candidates(self, task: str, failures: Failures) -> tuple[str, ...]:
        """Versions to try in this order until one loads; empty when all is as it should be.

        The desired one first. Behind it what served before, if that was ever loaded here; else the
        history, newest first, as after a restart.
        """
        with self._shelf.lock:
            route = self._shelf.table.routes.get(task)
            if route is None:  # forgotten since it was observed
                return ()
            served = (
                None if route.served is None else self._shelf.slots.versions[route.served.version]
            )
            if served is not None and self._shelf.owes_canaries(served.digest):
                served = None  # at most resident as an ancestor: not yet checked for its own task
            if served is not None and served.digest == route.desired and served.is_resident:
                return ()
            if served is not None and served.is_proven:
                rest = [served.digest]
            else:
                rest = list(reversed(route.versions))
            order = list(dict.fromkeys([route.desired, *rest]))
            if failures == "retry":
                for digest in order:
                    self._shelf.slots.retry(digest)
            return tuple(d for d in order if self._shelf.slots.state(d) is not State.FAILED)

    def wanted_by(self, digest: str) -> str | None:
        """The task of a version that somebody still waits for; None where nobody does."""
        with self._shelf.lock:
            version = self._shelf.slots.versions.get(digest)
            if version is None or not (version.leases or version.is_served):
                return None
            return version.facts.task

    def revive(self, digest: str) -> bool:
        """See Slots.revive."""
        with self._shelf.lock:
            return self._shelf.slots.revive(digest)

    def begin(self, lineage: Iterable[Known], digest: str, room: Room) -> tuple[str, ...] | None:
        """See Slots.begin. `lineage` is `digest` and all that it stands on."""
        with self._shelf.lock:
            for known in lineage:
                self._shelf.know(known)
            return self._shelf.slots.begin(digest, beside=self._shelf.beside(digest), room=room)

    def measure(self, digest: str, nbytes: int, loading: tuple[str, ...]) -> bool:
        """The bytes of a version became known; False when they do not fit now: all is undone."""
        with self._shelf.lock:
            fits = self._shelf.slots.measure(digest, nbytes, self._shelf.beside(loading[-1]))
            if not fits:
                self._shelf.slots.abort(loading)
            return fits

    def install(self, digest: str, slot: int, nonzeros: int, density: float) -> None:
        """See Slots.install."""
        with self._shelf.lock:
            self._shelf.slots.install(digest, slot, nonzeros, density)

    def passed(self, digest: str, canary_accuracy: float) -> None:
        """See Slots.passed. One that was forgotten meanwhile is nobody's matter."""
        with self._shelf.lock:
            if digest in self._shelf.slots.versions:
                self._shelf.slots.passed(digest, canary_accuracy)

    def commit(self, digest: str, loaded: tuple[str, ...]) -> None:
        """What was loaded may be used."""
        with self._shelf.lock:
            for each in loaded:
                self._shelf.slots.ready(each)
            version = self._shelf.slots.versions.get(digest)
            if version is not None and version.facts.task not in self._shelf.table.routes:
                self._shelf.slots.retire(digest, "unload")  # forgotten while it was loading

    def fail(self, facts: VersionFacts, loading: tuple[str, ...], failure: LoadFailure) -> None:
        """It does not load: whoever waits for it gets AdapterUnavailable.

        One that is resident, as another's ancestor, stays that and answers for its task no more.
        """
        with self._shelf.lock:
            self._shelf.slots.abort(loading)
            self._shelf.slots.know(facts)
            self._shelf.slots.fail(facts.digest, failure, self._shelf.clock())
            route = self._shelf.table.routes.get(facts.task)
            is_resident = self._shelf.slots.versions[facts.digest].is_resident
            if route is not None:
                if route.desired == facts.digest:
                    route = replace(route, failure=failure)
                if is_resident and _serves(route, facts.digest):
                    route = replace(route, served=None, manifest=None)
                self._shelf.route(route)
            if route is None or is_resident:
                self._shelf.slots.retire(facts.digest, "unload")

    def serve(self, task: str, digest: str) -> str | None:
        """The flip: new leases are on `digest`, the version before drains. Returns that one."""
        with self._shelf.lock:
            route = self._shelf.table.routes.get(task)
            if route is None or digest not in self._shelf.slots.versions:
                return None
            before = None if route.served is None else route.served.version
            self._shelf.serve(route, digest)
            return before if before != digest else None

    def abort(self, loading: tuple[str, ...]) -> None:
        """Undo `begin` without a failure: the room is needed first."""
        with self._shelf.lock:
            self._shelf.slots.abort(loading)

    def yield_for(self, digest: str) -> None:
        """Let others give way to a version that waited too long for room."""
        with self._shelf.lock:
            if digest in self._shelf.slots.versions:
                self._shelf.slots.yield_for(digest, self._shelf.beside(digest))

    def unyield(self) -> None:
        """No load waits for room any more."""
        with self._shelf.lock:
            self._shelf.slots.unyield()

    def take_freed(self) -> list[Freed]:
        """See Slots.take_freed."""
        with self._shelf.lock:
            return self._shelf.slots.take_freed()

    def take_removed(self) -> list[str]:
        """Forgotten tasks of which nothing is left, each once."""
        with self._shelf.lock:
            alive = {version.facts.task for version in self._shelf.slots.versions.values()}
            removed = sorted(self._shelf.leaving - alive)
            self._shelf.leaving -= set(removed)
            return removed


def _serves(route: Route, digest: str) -> bool:
    return route.served is not None and route.served.version == digest
