"""Which versions are resident, what uses them, and which have to go: a pure table.

Decides, never acts: slots that fell free are handed out by `take_freed`. One loader at a time.
What a resident version needs is resident: its ancestors, or its trunk and the ancestors after it.
Bytes in use exceed the budget only by trunks that cannot go; what is leased, has rows, is needed by
another or pinned is not evicted (the one exception is `yield_for`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Literal

from jumplora_server.residency import room as making
from jumplora_server.residency.entries import (
    Freed,
    Known,
    LoadFailure,
    PinState,
    Reason,
    Replay,
    State,
    Version,
)

Room = Literal["free", "evict"]  # may others be evicted for it
_MAX_MEASURED = 65_536
Use = Literal["in_service", "hidden"]  # "hidden": may be used before it is READY


class Versions:
    """Versions by digest, and trunks by their names. Bytes are those in the engine."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._versions: dict[str, Version] = {}
        self._by_task: dict[str, dict[str, Version]] = {}
        self._measured: dict[str, int] = {}  # bytes, kept when a version is forgotten
        self._pinned: set[str] = set()  # tasks
        self._freed: list[Freed] = []
        self._tick = 0

    @property
    def known(self) -> Mapping[str, Version]:
        """All known versions by digest; to be read only."""
        return MappingProxyType(self._versions)

    def of_task(self, task: str) -> tuple[Version, ...]:
        """The known versions whose manifests name `task`."""
        return tuple(self._by_task.get(task, {}).values())

    @property
    def used_bytes(self) -> int:
        """Bytes of all loading and resident versions."""
        return making.resident_bytes(self._versions)

    @property
    def trunks(self) -> list[Version]:
        """Loading and resident trunks."""
        return [v for v in self._versions.values() if v.is_trunk and v.resident_bytes]

    @property
    def has_freed(self) -> bool:
        """Whether `take_freed` would return any."""
        return bool(self._freed)

    def state(self, digest: str) -> State:
        """The state of a version, known or not."""
        version = self._versions.get(digest)
        return State.COLD if version is None else version.state

    def is_resident(self, digest: str) -> bool:
        """Whether normal rows may use a version, known or not."""
        return self.state(digest) in (State.READY, State.DRAINING)

    def take_freed(self) -> list[Freed]:
        """Slots to remove from the engine before anything is installed into their room."""
        freed, self._freed = self._freed, []
        return freed

    # Use

    def know(self, new: Known) -> None:
        """Enter a version as COLD, if it is new; others' files may have lain under its name before,
        so what was known of one that holds nothing is replaced."""
        facts = new.facts
        known = self._versions.get(facts.digest)
        if known is None:
            known = Version(facts, new.manifest, facts.guessed_bytes, new.parts, new.folds)
            if known.is_trunk:
                known.size = "measured"  # the engine said it
            if facts.digest in self._measured:
                known.nbytes, known.size = self._measured[facts.digest], "measured"
            self._versions[facts.digest] = known
        elif known.state in (State.COLD, State.FAILED):
            if known.facts != facts:
                self._unindex(known)
                known.facts, known.parts = facts, None
            known.parts = known.parts if new.parts is None else new.parts
        known.manifest = new.manifest
        if not known.is_trunk:
            self._by_task.setdefault(known.facts.task, {})[facts.digest] = known

    def lease(self, digest: str) -> None:
        """Count a lease on a known version."""
        self._versions[digest].leases += 1
        self._versions[digest].used = self._next_tick()

    def unlease(self, digest: str) -> None:
        """Give a lease back."""
        version = self._versions[digest]
        assert version.leases > 0, f"{digest} has no lease"
        version.leases -= 1
        self._rest(version)

    def claim(self, digest: str, use: Use) -> tuple[int, ...] | None:
        """Count a row and return the slots that it uses; None while it has none to give."""
        version = self._versions[digest]
        is_installed = version.is_resident or (use == "hidden" and version.slot >= 0)
        if not is_installed or version.is_yielding:
            return None
        version.rows += 1
        version.used = self._next_tick()
        return tuple(self._versions[d].slot for d in (*version.needs, digest))

    def unclaim(self, digest: str) -> None:
        """Give a row back."""
        version = self._versions[digest]
        assert version.rows > 0, f"{digest} has no row"
        version.rows -= 1
        self._rest(version)

    def serve(self, digest: str, task: str) -> None:
        """The route of `task` names it: it stays known, and is revived if it was draining."""
        version = self._versions[digest]
        version.serving.add(task)
        if version.state is State.DRAINING:
            version.state = State.READY

    def retire(self, digest: str, task: str, reason: Reason) -> None:
        """The route of `task` names it no more. Freed once nothing uses or needs it.

        One that another task serves stays as it is, and one that is not known is ignored.
        """
        version = self._versions.get(digest)
        if version is None:
            return
        version.serving.discard(task)
        if version.is_served:
            return
        if version.state is State.READY:
            version.state = State.DRAINING
            version.retired = reason
        self._rest(version)

    def pin(self, task: str, pinned: PinState) -> None:
        """Protect the version that `task` serves from eviction, or no longer."""
        (self._pinned.add if pinned == "pinned" else self._pinned.discard)(task)

    def is_pinned(self, task: str) -> bool:
        """Whether `task` is pinned."""
        return task in self._pinned

    # Loading

    def begin(self, digest: str, *, beside: str | None, room: Room) -> tuple[str, ...] | None:
        """Make room for a version and what it needs and lacks, and mark them LOADING.

        Returns what to install, needed ones first. None when there is no room now (with "evict":
        because what could go is in use). `beside` stays resident: the version to be replaced.
        Raises OutOfMemoryBudget when no waiting could help. All that it needs must be known.
        """
        missing = self._missing(digest)
        # Looked up before anything changes: one that is not known must leave nothing half done.
        holders = [self._versions[n] for d in missing for n in self._versions[d].needs]
        keep = self._kept(digest, beside)
        if room == "evict":
            for d in missing:
                if self._versions[d].size == "guessed":
                    self._versions[d].nbytes = self._versions[d].facts.guessed_bytes
            making.lower_guesses(self._versions, missing, keep, self.budget_bytes)
            making.check_possible(self._versions, missing, keep, self.budget_bytes)
        for holder in holders:
            holder.holds += 1  # what drains must not leave with what is evicted now
        if missing and not self._make_room(missing, keep, room):
            for holder in holders:
                holder.holds -= 1
            return None
        if self._versions[digest].state is State.DRAINING:
            self._versions[digest].state = State.READY  # wanted again: it must stay until then
        for d in missing:
            version = self._versions[d]
            version.state, version.failure = State.LOADING, None
        self.unyield()
        return missing

    def measure(self, digest: str, nbytes: int, beside: str | None) -> bool:
        """Correct the bytes of a loading version; when False, `abort` must follow at once.

        Raises OutOfMemoryBudget like `begin`.
        """
        self._versions[digest].nbytes, self._versions[digest].size = nbytes, "measured"
        if len(self._measured) >= _MAX_MEASURED:
            self._measured.clear()
        self._measured[digest] = nbytes
        loading = [d for d, v in self._versions.items() if v.state is State.LOADING]
        keep = [*loading, *self._kept(digest, beside)]
        making.lower_guesses(self._versions, loading, keep, self.budget_bytes)
        making.check_possible(self._versions, (), keep, self.budget_bytes)
        return self._make_room((), keep, "evict")

    def install(self, digest: str, slot: int, nonzeros: int, density: float) -> None:
        """A loading version got its slot; it stays hidden."""
        version = self._versions[digest]
        assert version.state is State.LOADING, f"{digest} is {version.state}"
        version.slot, version.nonzeros, version.density = slot, nonzeros, density

    def passed(self, digest: str, replay: Replay) -> None:
        """Its canaries were replayed and are not owed again while it is known."""
        if digest in self._versions:  # else it was forgotten since
            self._versions[digest].replay = replay

    def ready(self, digest: str) -> None:
        """A loading version may be used."""
        version = self._versions[digest]
        assert version.state is State.LOADING, f"{digest} is {version.state}"
        assert version.slot >= 0, f"{digest} has no slot"
        version.state, version.is_proven = State.READY, True
        version.since = self._next_tick()

    def abort_all(self) -> None:
        """Undo every `begin` that was not ended; nothing is loading then."""
        self.abort([d for d, v in self._versions.items() if v.state is State.LOADING])

    def abort(self, digests: Iterable[str]) -> None:
        """Undo `begin` for what is still loading."""
        for digest in reversed(tuple(digests)):
            version = self._versions.get(digest)
            if version is not None and version.state is State.LOADING:
                self._leave(version, "unload")

    def fail(self, digest: str, failure: LoadFailure) -> None:
        """A known version that is not loading cannot be loaded; a resident one stays."""
        version = self._versions[digest]
        if version.is_resident:
            return
        assert version.state in (State.COLD, State.FAILED), f"{digest} is {version.state}"
        version.state, version.failure, version.is_proven = State.FAILED, failure, False
        self._rest(version)

    def revive(self, digest: str) -> bool:
        """Keep a version that is resident from draining; False when it is not resident."""
        version = self._versions.get(digest)
        if version is None or not version.is_resident:
            return False
        version.state = State.READY
        return True

    def retry(self, digest: str) -> None:
        """Forget that it failed, if it did."""
        version = self._versions.get(digest)
        if version is not None and version.state is State.FAILED:
            version.state, version.failure = State.COLD, None
            self._rest(version)

    def yield_for(self, digest: str, beside: str | None) -> None:
        """Give no new rows to what is resident longest, until a `begin` succeeds or `unyield`.

        For a load that waits while leases never reach zero: yielding versions are evicted when
        their rows end, leased or not, and come back when it is their turn.
        """
        keep = self._kept(digest, beside)
        missing = self._missing(digest)
        lacking = making.lacking(self._versions, missing, keep, self.budget_bytes)
        chosen = making.victims(self._versions, lacking, keep, lambda v: True, lambda v: v.since)
        for version in chosen or ():
            version.is_yielding = True

    def unyield(self) -> None:
        """No version waits for room any more."""
        for version in self._versions.values():
            version.is_yielding = False

    # Inside

    def _missing(self, digest: str) -> tuple[str, ...]:
        lineage = making.closure(self._versions, [digest])
        return tuple(d for d in lineage if not self._versions[d].is_resident)

    def _kept(self, digest: str, beside: str | None) -> list[str]:
        """What stays whatever happens: the pinned, and what is loaded or replaced now."""
        named = [digest] if beside is None else [digest, beside]
        served = (v for v in self._versions.values() if v.is_served)
        return named + [v.digest for v in served if v.serving & self._pinned]

    def _make_room(self, missing: Collection[str], keep: list[str], room: Room) -> bool:
        need = sum(self._versions[d].nbytes for d in missing)
        if need + self.used_bytes <= self.budget_bytes:
            return True
        if room == "free":
            return False
        lacking = making.lacking(self._versions, missing, keep, self.budget_bytes)
        chosen = making.victims(
            self._versions, lacking, keep, lambda v: v.is_evictable, lambda v: v.used
        )
        for version in chosen or ():
            if version.is_resident:  # else it left with the last that needed it
                self._leave(version, "lru")
        return chosen is not None

    def _leave(self, version: Version, reason: Reason) -> None:
        """Out of the engine, to COLD."""
        if version.slot >= 0:
            self._freed.append(Freed(version.slot, version.facts.task, version.digest, reason))
        version.state, version.slot, version.is_yielding = State.COLD, -1, False
        for digest in version.needs:
            needed = self._versions[digest]
            needed.holds -= 1
            needed.used = max(needed.used, version.used)
            self._rest(needed)
        self._rest(version)

    def _rest(self, version: Version) -> None:
        """Free or forget a version that is not used."""
        if not version.is_idle:
            return
        if version.state is State.DRAINING:
            self._leave(version, version.retired)
        elif version.is_trunk and version.is_resident:
            # Where no known version uses it, the store may have none that does.
            is_used = any(version.digest in v.needs for v in self._versions.values())
            if self.used_bytes > self.budget_bytes or not is_used:
                self._leave(version, "unload")
        elif version.state in (State.COLD, State.FAILED) and not version.is_served:
            self._versions.pop(version.digest, None)
            self._unindex(version)
            for name in version.needs[:1]:  # a trunk stands first
                if name in self._versions and self._versions[name].is_trunk:
                    self._rest(self._versions[name])

    def _unindex(self, version: Version) -> None:
        own = self._by_task.get(version.facts.task, {})
        own.pop(version.digest, None)
        if not own:
            self._by_task.pop(version.facts.task, None)

    def _next_tick(self) -> int:
        self._tick += 1
        return self._tick
