"""The table of versions against a dictionary model, under any order of what may happen to it."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from factories import random_adapter
from jumplora_server.errors import OutOfMemoryBudget
from jumplora_server.residency.entries import Known, LoadFailure, State, VersionFacts
from jumplora_server.residency.folding import Folding, plan
from jumplora_server.residency.room import closure
from jumplora_server.residency.versions import Versions
from small_server import BACKBONE

BUDGET = 40
# digest -> (ancestors, size); tasks are the letters, so a2 replaces a1.
WORLD: dict[str, tuple[tuple[str, ...], int]] = {
    "a1": ((), 10),
    "a2": ((), 12),
    "b1": (("a1",), 8),
    "c1": (("a1", "b1"), 6),
    "d1": ((), 25),
    "e1": (("d1",), 9),
    "f1": ((), 41),
    "g1": (("a1", "b1", "c1"), 5),
    "h1": (("a1",), 7),
}
TRUNK = 9
NAMES = st.sampled_from(sorted(WORLD))
MANIFEST, _ = random_adapter(BACKBONE)


def folding(trunks: int) -> Folding:
    """With room for that many trunks of a chain: for 7 they stand at depths 1 and 3."""
    return Folding("auto", BUDGET, trunks * TRUNK, lambda sites: TRUNK)


def needed(name: str, rule: Folding) -> tuple[Known, ...]:
    lineage = (*WORLD[name][0], name)
    facts = [VersionFacts(each, each[0], *WORLD[each]) for each in lineage]
    return plan([Known(fact, MANIFEST) for fact in facts], name, rule)


class VersionsMachine(RuleBasedStateMachine):
    """The model: who is leased, who has rows, and which engine slots are installed."""

    folding = folding(0)

    def __init__(self) -> None:
        super().__init__()
        self.versions = Versions(BUDGET)
        self.leases: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.row_slots: dict[str, tuple[int, ...]] = {}
        self.installed: dict[int, str] = {}  # slot -> digest
        self.served: dict[str, str] = {}
        self.pinned: set[str] = set()
        self.loading: tuple[str, ...] = ()
        self.next_slot = 0

    def know(self, name: str) -> None:
        for known in needed(name, self.folding):
            self.versions.know(known)

    def size(self, name: str) -> int:
        return WORLD[name][1] if name in WORLD else TRUNK

    @property
    def most(self) -> int:
        """What may be in use: only trunks may go over the budget."""
        return BUDGET + sum(trunk.nbytes for trunk in self.versions.trunks)

    def tidy(self) -> None:
        for freed in self.versions.take_freed():
            name = self.installed.pop(freed.slot)  # KeyError: freed twice
            users = [user for user, slots in self.row_slots.items() if freed.slot in slots]
            assert not users, f"{name} is removed under the rows of {users}"
            assert freed.task == (name[0] if name in WORLD else "")

    @rule(name=NAMES)
    def lease(self, name: str) -> None:
        if self.versions.state(name) is not State.FAILED:
            self.know(name)
            self.versions.lease(name)
            self.leases[name] += 1

    @rule(name=NAMES)
    def unlease(self, name: str) -> None:
        if self.leases[name] > self.rows[name]:
            self.versions.unlease(name)
            self.leases[name] -= 1

    @rule(name=NAMES)
    def claim(self, name: str) -> None:
        if self.leases[name] > self.rows[name]:
            slots = self.versions.claim(name, "in_service")
            if slots is not None:
                own = next(k for k in needed(name, self.folding) if k.facts.digest == name)
                assert own.parts is not None
                assert [self.installed[s] for s in slots] == [*own.parts, name]
                self.rows[name] += 1
                kept = self.row_slots.setdefault(name, slots)
                assert kept == slots, "a version moved under its rows"

    @rule(name=NAMES)
    def unclaim(self, name: str) -> None:
        if self.rows[name]:
            self.versions.unclaim(name)
            self.rows[name] -= 1
            if not self.rows[name]:
                del self.row_slots[name]

    @rule(task=st.sampled_from("abcdefgh"), pinned=st.sampled_from(["pinned", "unpinned"]))
    def pin(self, task: str, pinned: str) -> None:
        self.versions.pin(task, "pinned" if pinned == "pinned" else "unpinned")
        (self.pinned.add if pinned == "pinned" else self.pinned.discard)(task)

    @precondition(lambda self: not self.loading)
    @rule(name=NAMES, room=st.sampled_from(["free", "evict"]))
    def begin(self, name: str, room: str) -> None:
        if self.versions.state(name) is State.FAILED:
            self.versions.retry(name)
        self.know(name)
        before = set(self.installed)
        served = self.served.get(name[0])
        beside = served if served != name else None
        try:
            loading = self.versions.begin(
                name, beside=beside, room="free" if room == "free" else "evict"
            )
        except OutOfMemoryBudget:
            loading = None
            self.versions.retire(name, name[0], "unload") if served != name else None
        self.tidy()
        gone = before - set(self.installed)
        assert room == "evict" or not gone
        if loading and self.versions.used_bytes > BUDGET:
            keep = [d for task, d in self.served.items() if task in self.pinned]
            kept = closure(self.versions.known, [name, *keep, *([beside] if beside else [])])
            resident = {d for d, v in self.versions.known.items() if v.resident_bytes}
            assert resident <= {*kept}, "all that could go went first"
        self.loading = loading or ()

    @precondition(lambda self: bool(self.loading))
    @rule(factor=st.sampled_from([1.0, 0.5, 1.5]), outcome=st.sampled_from(["ready", "fail"]))
    def end(self, factor: float, outcome: str) -> None:
        target, loading, self.loading = self.loading[-1], self.loading, ()
        for name in loading:
            served = self.served.get(target[0])
            try:
                fits = self.versions.measure(name, int(self.size(name) * factor), served)
            except OutOfMemoryBudget:
                fits = False
            if not fits:
                self.versions.abort(loading)
                self.tidy()
                return
            self.tidy()
            assert self.versions.used_bytes <= self.most
            self.installed[self.next_slot] = name
            self.versions.install(name, self.next_slot, 1, 0.5)
            self.next_slot += 1
        if outcome == "fail":
            self.versions.abort(loading)
            self.know(target)
            self.versions.fail(target, LoadFailure("x", "x"))
            assert (target in self.versions.known) == (
                target in self.served.values()
                or bool(self.leases[target])
                or self.versions.is_resident(target)
            )
        else:
            for name in loading:
                self.versions.ready(name)
            self.serve(target)

    @precondition(lambda self: not self.loading)
    @rule(name=NAMES)
    def serve_again(self, name: str) -> None:
        version = self.versions.known.get(name)
        if version is not None and version.is_resident:
            self.serve(name)

    def serve(self, name: str) -> None:
        before = self.served.get(name[0])
        self.versions.serve(name, name[0])
        self.served[name[0]] = name
        if before is not None and before != name:
            self.versions.retire(before, before[0], "replaced")

    @precondition(lambda self: not self.loading)
    @rule(task=st.sampled_from("abcdefgh"))
    def forget(self, task: str) -> None:
        if task in self.served:
            self.versions.retire(self.served.pop(task), task, "unload")

    @rule(name=NAMES)
    def yield_for(self, name: str) -> None:
        if name in self.versions.known:
            self.know(name)
            self.versions.yield_for(name, self.served.get(name[0]))

    @invariant()
    def agrees_with_the_model(self) -> None:
        self.tidy()
        versions = self.versions.known
        assert self.versions.used_bytes <= self.most
        resident = {d for d, v in versions.items() if v.is_resident}
        for digest, version in versions.items():
            assert version.leases == self.leases[digest]
            assert version.rows == self.rows[digest]
            holders = {
                d
                for d, v in versions.items()
                if digest in v.needs and (v.is_resident or v.state is State.LOADING)
            }
            assert version.holds == len(holders)
            if digest in resident:
                assert resident.issuperset(version.needs)
            if version.state is State.DRAINING:
                assert not version.is_idle, "it should be gone"
        assert all(d in versions for d, count in self.leases.items() if count)
        slots = {v.slot: d for d, v in versions.items() if v.slot >= 0}
        assert slots == self.installed, "what the table says is what the engine holds"
        for task, digest in self.served.items():
            assert versions[digest].is_served
            assert versions[digest].facts.task == task
        listed = {v.digest for task in "abcdefgh" for v in self.versions.of_task(task)}
        assert listed == {digest for digest in versions if digest in WORLD}, "no trunk is listed"

    def teardown(self) -> None:
        self.versions.abort(self.loading)
        for name, count in self.rows.items():
            for _ in range(count):
                self.versions.unclaim(name)
        self.rows.clear()
        self.row_slots.clear()
        for name, count in self.leases.items():
            for _ in range(count):
                self.versions.unlease(name)
        for digest in tuple(self.versions.known):
            if digest in self.versions.known:
                self.versions.retire(digest, digest[0], "unload")
        self.tidy()
        assert self.installed == {}
        assert dict(self.versions.known) == {}
        assert self.versions.used_bytes == 0


class FoldedMachine(VersionsMachine):
    """The same with trunks, which several of the versions share."""

    folding = folding(7)


TestVersions = VersionsMachine.TestCase
TestFolded = FoldedMachine.TestCase
TestVersions.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestFolded.settings = TestVersions.settings
