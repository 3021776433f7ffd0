"""Desired, resident, used and failed versions: one pure table.

Decides, never acts: no lock, no thread, no file and no clock. What a change asks of the loader is
left in `take_orders`. `Shared` puts the lock around it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

from jumplora_adapters.routing import NO_ROUTING, Routing, Staged
from jumplora_server.residency.entries import (
    Known,
    Leased,
    LoadFailure,
    Orders,
    PinState,
    Route,
    RoutingTable,
    Staging,
    State,
    check_task,
    other_task,
    unavailable,
)
from jumplora_server.residency.names import Names
from jumplora_server.residency.setback import Setback, Setbacks, Stamps, Waits
from jumplora_server.residency.turns import Turns
from jumplora_server.residency.versions import Room, Use, Versions


class Table:
    """`versions` is the part that keeps the byte budget; only this class changes it.

    `names` are those of the registered tasks; it has another lock, because it is read without that
    of the table.
    """

    def __init__(
        self,
        budget_bytes: int,
        waits: Waits,
        canary_drop: float = 1.0,
        rng: random.Random | None = None,
    ) -> None:
        """A staged version may have as much less of its canaries right than the served one. `rng`
        draws the requests that it gets."""
        self.routing = RoutingTable()
        self._canary_drop = canary_drop
        self._turns = Turns(rng or random.Random())
        # What gets no share any more and why, by task.
        self._shut: dict[str, tuple[Staged, LoadFailure]] = {}
        self._routings: dict[str, Routing] = {}  # as they were read last
        self.names = Names()
        self.versions = Versions(budget_bytes)
        self.setbacks = Setbacks(waits)
        self._pointers: dict[str, str | None] = {}  # as they were read last
        self._leaving: set[str] = set()  # forgotten tasks of which something is in use
        self._is_room_wanted = False  # a load found none since some was made last
        self._orders = Orders()

    def take_orders(self) -> Orders:
        """What the changes since the last call ask of the loader."""
        orders, self._orders = self._orders, Orders()
        return orders

    # Requests

    def acquire(self, spec: str, now: float, known: Known | None = None) -> Leased | str:
        """Route "task", "task@name" or "task@prefix" and count a lease; of a task alone, some go to
        its staged version, by its share.

        Returns a digest instead where that version must be given as `known` first. Raises
        UnknownTask, UnknownVersion, AdapterUnavailable.
        """
        route, digest = self.routing.version(spec)
        staged = self._open_stage(route) if "@" not in spec else None
        if staged is not None and self._turns.is_due(route.task, staged):
            digest = staged.version
        version = self.versions.known.get(digest)
        if version is None or not version.is_resident:
            setback = self.setbacks.get(route.task, digest)
            if setback is not None and now < setback.retry_at:
                raise unavailable(route.task, digest, setback.failure, setback.retry_at - now)
            self.versions.retry(digest)
        if digest not in self.versions.known:
            if known is None or known.facts.digest != digest:
                return digest
            check_task(known.facts, route.task)
            self.versions.know(known)
        check_task(self.versions.known[digest].facts, route.task)
        if route.served is None and "@" not in spec:
            self._serve(route, digest)
        self.versions.lease(digest)
        if staged is not None:
            self._turns.take(route.task)
        if self.versions.state(digest) is State.COLD:
            self._orders.fetch.append(digest)
        role = self.routing.route(route.task).role_of(digest)
        return replace(self.leased(digest), role=role, is_drawn=staged is not None)

    def leased(self, digest: str) -> Leased:
        """What a lease on a known version is on; counts nothing."""
        version = self.versions.known[digest]
        return Leased(version.ref, version.manifest)

    def release(self, digest: str) -> None:
        """One lease less."""
        self.versions.unlease(digest)
        self._rested(digest)

    def claim(self, digest: str, use: Use) -> tuple[int, ...] | None:
        """The slots for a row of a leased version, counted; None while it has none to give.

        Raises AdapterUnavailable where it does not load.
        """
        version = self.versions.known[digest]
        if version.state is State.FAILED:
            assert version.failure is not None
            raise unavailable(version.facts.task, digest, version.failure)
        if version.state is State.COLD:
            self._orders.fetch.append(digest)
        return self.versions.claim(digest, use)

    def unclaim(self, digest: str) -> None:
        """One row less."""
        self.versions.unclaim(digest)
        self._rested(digest)

    def pin(self, task: str, pinned: PinState) -> None:
        """Keep what the task serves from eviction, or no longer. Raises UnknownTask."""
        route = self.routing.route(task)
        self.versions.pin(task, pinned)
        if pinned == "unpinned":
            self._give_way()
        elif route.served is not None:
            self._orders.fetch.append(route.served.version)

    # The store

    def noticed(self) -> dict[str, str | None]:
        """Task -> the digest that its pointer held when it was read; None where it had none."""
        return dict(self._pointers)

    def noticed_routings(self) -> dict[str, Routing]:
        """Task -> what its routing said when it was read, where it said anything."""
        return dict(self._routings)

    def observe(
        self, task: str, desired: str, versions: tuple[str, ...], routing: Routing | None = None
    ) -> None:
        """What the store says of a task now; registers it if it is new. Where its `routing` is
        None, as it cannot be read, that stays what it was."""
        route = self.routing.routes.get(task) or Route(task, desired, versions)
        if routing is None:
            routing = self._routings.get(task, NO_ROUTING)
        self._routings.pop(task, None)
        if routing:
            self._routings[task] = routing
        staged = routing.staged
        if staged is not None and staged.version == desired:
            staged = None  # promoted
        self.setbacks.clear(task)
        self._pointers[task] = desired
        if route.desired != desired:
            self.setbacks.clear(task, desired)  # a new wish is tried at once
        if staged is not None and staged != route.staged:
            self.setbacks.clear(task, staged.version)
            self._shut.pop(task, None)
        self._route(
            replace(
                route, desired=desired, versions=versions, staged=staged, aliases=routing.aliases
            )
        )
        self._leaving.discard(task)
        self._end_staging(task)
        for version in self.versions.of_task(task):
            if version.digest not in versions and not version.is_served:
                self.versions.retire(version.digest, task, "unload")
        self.setbacks.keep(task, (*versions, desired, *([staged.version] if staged else ())))
        self._freed()

    def blame(
        self, task: str, failure: LoadFailure, now: float, *, pointer: str | None = None
    ) -> Setback:
        """The store does not say what a task should serve; what it serves still answers.

        `pointer` is what the pointer holds, where it can be read and something else cannot.
        """
        setback = self.setbacks.note(task, failure, now)
        self._pointers[task] = pointer
        self._route(self.routing.routes.get(task) or Route(task, None, ()))
        self._leaving.discard(task)
        return setback

    def suspects(self) -> list[tuple[str, Stamps]]:
        """Tasks whose desired version does not load, each with the files as they were then."""
        return [
            (task, setback.seen)
            for task, digest, setback in self.setbacks.all()
            if setback.seen and self.routing.routes[task].desired == digest
        ]

    def expect(self, task: str, known: Known) -> None:
        """Let a task that serves nothing that loads serve a version that is loaded on first use."""
        route = self.routing.routes.get(task)
        if route is None or known.facts.task != task:
            return
        served = None if route.served is None else route.served.version
        if served is None or self.versions.state(served) is State.FAILED:
            self.versions.know(known)
            self._serve(route, known.facts.digest)

    def to_open(self, task: str, now: float, *, retry: bool) -> str | None:
        """The staged version that is not open yet and should be tried; as `candidates`."""
        route = self.routing.routes.get(task)
        if route is None or route.staged is None or route.serves(route.staged.version):
            return None
        digest = route.staged.version
        if route.staging is not None and route.staging.is_open:
            return None
        if self.why_shut(route) is not None:
            return None
        if not retry and not self.setbacks.is_due(task, digest, now):
            return None
        self.versions.retry(digest)
        return digest

    def expect_staged(self, task: str, known: Known) -> None:
        """Keep a task's staged version known from now on; it is not open for its share yet."""
        route, digest = self.routing.routes.get(task), known.facts.digest
        if route is None or known.facts.task != task or route.role_of(digest) != "staged":
            return
        self.versions.know(known)
        self.versions.serve(digest, task)
        if route.staging is None:
            self._route(replace(route, staging=Staging(digest)))

    def open(self, task: str, digest: str) -> LoadFailure | None:
        """Give a staged version that was loaded its share, or say why it gets none."""
        route, version = self.routing.routes.get(task), self.versions.known.get(digest)
        if route is None or version is None or route.role_of(digest) != "staged":
            return None
        served = None if route.served is None else self.versions.known[route.served.version]
        before = None if served is None or served.replay is None else served.replay.accuracy
        if before is not None and version.replay is not None:
            least = before - self._canary_drop
            if version.replay.accuracy < least - 1e-9:
                return LoadFailure(
                    "canary",
                    f"a share of {version.replay.accuracy:.3g} of its canaries was right, and "
                    f"{before:.3g} of those of the version that answers; at most "
                    f"{self._canary_drop:g} less is allowed (JUMPLORA_STAGE_CANARY_DROP)",
                )
        self._route(replace(route, staging=Staging(digest, is_open=True)))
        return None

    def shut(self, task: str, digest: str, failure: LoadFailure, now: float) -> None:
        """Take a staged version's share from it, which stays so until one is staged anew."""
        route = self.routing.routes.get(task)
        if route is None or route.staged is None or route.role_of(digest) != "staged":
            return
        self._turns.forget(task)
        self._shut[task] = route.staged, failure
        self.setbacks.note(task, failure, now, digest)
        self._route(replace(route, staging=None))
        if route.staging is not None:
            self.versions.retire(digest, task, "unload")
        self._give_way()

    def why_shut(self, route: Route) -> LoadFailure | None:
        """Why the staged version of a task gets no share any more, where one was `shut`."""
        staged, failure = self._shut.get(route.task, (None, None))
        return failure if staged == route.staged else None

    def forget(self, task: str) -> None:
        """Route to it no more; what is in use of it ends by itself."""
        route = self.routing.routes.get(task)
        if route is None:
            return
        self.routing = self.routing.without(task)
        self.names.discard(task)
        self.versions.pin(task, "unpinned")
        self._leaving.add(task)
        self.setbacks.forget(task)
        self._pointers.pop(task, None)
        self._routings.pop(task, None)
        self._turns.forget(task)
        self._shut.pop(task, None)
        if route.served is not None:
            self.versions.retire(route.served.version, task, "unload")
        if route.staging is not None:
            self.versions.retire(route.staging.version, task, "unload")
        for version in self.versions.of_task(task):
            self.versions.retire(version.digest, task, "unload")
        self._give_way()

    def clear(self) -> None:
        """Forget all tasks, and what was loaded only as another's ancestor."""
        for task in tuple(self.routing.routes):
            self.forget(task)
        for digest, version in tuple(self.versions.known.items()):
            self.versions.retire(digest, version.facts.task, "unload")

    # The loader

    def staging(self, task: str) -> str | None:
        """The staged version of a task that is kept known here."""
        route = self.routing.routes.get(task)
        return None if route is None or route.staging is None else route.staging.version

    def candidates(self, task: str, now: float, *, retry: bool) -> tuple[str, ...]:
        """Versions to try in this order until one loads; empty when all is as it should be.

        What failed is left out until its time has come, or tried anyway with `retry`.
        """
        route = self.routing.routes.get(task)
        if route is None:  # forgotten since
            return ()
        served = None if route.served is None else self.versions.known[route.served.version]
        if served is not None and served.owes_canaries:
            served = None  # at most resident as an ancestor: not yet checked for its own task
        order = route.preferred(served)
        due = [digest for digest in order if retry or self.setbacks.is_due(task, digest, now)]
        for digest in due:
            self.versions.retry(digest)
        return tuple(due)

    def wanted_by(self, digest: str) -> str | None:
        """The task of a version that is still waited for; None where it is not."""
        version = self.versions.known.get(digest)
        if version is None or not (version.leases or version.is_served):
            return None
        return version.facts.task

    def revive(self, task: str, digest: str) -> bool | LoadFailure:
        """Keep a resident version from draining for a task. False when it is not resident, and a
        failure where it is another task's."""
        version = self.versions.known.get(digest)
        if version is not None and version.facts.task != task:
            return other_task(version.facts, task)
        return self.versions.revive(digest)

    def begin(self, needed: Iterable[Known], digest: str, room: Room) -> tuple[str, ...] | None:
        """See Versions.begin. `needed` is `digest` and all that it needs."""
        for known in needed:
            self.versions.know(known)
        begun = self.versions.begin(digest, beside=self._beside(digest), room=room)
        self._is_room_wanted |= begun is None
        return begun

    def measure(self, digest: str, nbytes: int, loading: tuple[str, ...]) -> bool:
        """The bytes of a version became known; False when they do not fit now: all is undone."""
        fits = self.versions.measure(digest, nbytes, self._beside(loading[-1]))
        if not fits:
            self.versions.abort(loading)
            self._is_room_wanted = True
        return fits

    def commit(self, task: str, digest: str, loaded: tuple[str, ...]) -> None:
        """What was loaded may be used."""
        for each in loaded:
            self.versions.ready(each)
        self.setbacks.clear(task, digest)
        route = self.routing.routes.get(task)
        if route is not None:
            if route.serves(digest):  # its header may have been another file's before
                leased = self.leased(digest)
                route = replace(route, served=leased.ref, manifest=leased.manifest)
            self._route(route)
        else:
            self.versions.retire(digest, task, "unload")  # forgotten while it was loading

    def flip(self, task: str, digest: str) -> str | None:
        """New leases are on `digest`, the version before drains. Returns that one."""
        route = self.routing.routes.get(task)
        if route is None or digest not in self.versions.known:
            return None
        before = None if route.served is None else route.served.version
        self._serve(route, digest)
        if before is None or before == digest:
            return None
        self._give_way()
        return before

    def fail(
        self,
        task: str,
        digest: str,
        failure: LoadFailure,
        *,
        loading: tuple[str, ...],
        seen: Stamps,
        now: float,
    ) -> Setback:
        """A task's version does not load: sequences that wait for it get AdapterUnavailable.

        One that is resident, as another's ancestor, stays that and answers for its task no more.
        One that is another task's is none of this task's doing, and stays as it is.
        """
        self.versions.abort(loading)
        setback = self.setbacks.note(task, failure, now, digest, seen)
        route, version = self.routing.routes.get(task), self.versions.known.get(digest)
        if route is None:
            self.setbacks.forget(task)
        if version is not None and version.facts.task == task:
            self.versions.fail(digest, failure)
            if route is not None and version.is_resident and route.serves(digest):
                route = replace(route, served=None, manifest=None)
            is_staging = (
                route is not None and route.staging is not None and route.staging.version == digest
            )
            if route is not None and is_staging:
                route = replace(route, staging=None)
            if route is None or version.is_resident or is_staging:
                self.versions.retire(digest, task, "unload")
        if route is not None:
            self._route(route)
        return setback

    def yield_for(self, digest: str) -> None:
        """Let others give way to a version that waited too long for room."""
        if digest in self.versions.known:
            self.versions.yield_for(digest, self._beside(digest))

    def take_removed(self) -> list[str]:
        """Forgotten tasks of which nothing is left, each once."""
        removed = sorted(task for task in self._leaving if not self.versions.of_task(task))
        self._leaving.difference_update(removed)
        return removed

    # Inside

    def _route(self, route: Route) -> None:
        """Put a route into the table, with the failure that is known of what it wants."""
        setback = self.setbacks.of(route)
        failure = None if setback is None else setback.failure
        if route.task not in self.routing.routes:
            self.names.add(route.task)
        self.routing = self.routing.with_route(replace(route, failure=failure))

    def _open_stage(self, route: Route) -> Staged | None:
        """A task's staged version where it can answer now. While it cannot, what answers is the
        current one, and the loader is asked for it."""
        staged, staging = route.staged, route.staging
        if staged is None or not staged.share or route.served is None:
            return None
        state = self.versions.state(staged.version)
        if staging is None or not staging.is_open:
            if state is State.COLD and self.setbacks.get(route.task, staged.version) is None:
                self._orders.open.append(route.task)
            return None
        if state is State.COLD:
            self._orders.fetch.append(staged.version)
        return staged if self.versions.is_resident(staged.version) else None

    def _end_staging(self, task: str) -> None:
        """Let go of what is staged no longer; one that is to be current stays until then."""
        route = self.routing.route(task)
        staging = route.staging
        if staging is None or route.role_of(staging.version) == "staged":
            return
        if staging.version == route.desired and not route.serves(staging.version):
            return
        self._turns.forget(task)
        self._route(replace(route, staging=None))
        if not route.serves(staging.version):
            self.versions.retire(staging.version, task, "replaced")
        self._give_way()

    def _serve(self, route: Route, digest: str) -> None:
        leased = self.leased(digest)
        staging = route.staging
        if staging is not None and staging.version == digest:
            staging = None
        self._route(replace(route, served=leased.ref, manifest=leased.manifest, staging=staging))
        self.versions.serve(digest, route.task)
        if route.served is not None and route.served.version != digest:
            self.versions.retire(route.served.version, route.task, "replaced")
        self._freed()

    def _beside(self, digest: str) -> str | None:
        """The version that `digest` would replace."""
        route = self.routing.routes.get(self.versions.known[digest].facts.task)
        served = None if route is None or route.served is None else route.served.version
        return served if served != digest else None

    def _rested(self, digest: str) -> None:
        version = self.versions.known.get(digest)
        if version is None or version.is_evictable:
            self._freed()

    def _freed(self) -> None:
        self._orders.is_room_made |= self._is_room_wanted
        self._is_room_wanted = False
        self._orders.is_freed = self.versions.has_freed or bool(self._leaving)

    def _give_way(self) -> None:
        """Less has to stay than before: what the budget refused may fit now."""
        self._freed()
        self._orders.settle += self.setbacks.tasks_with("memory_budget")
