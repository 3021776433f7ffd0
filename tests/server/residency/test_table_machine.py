"""The table under any order of what happens to a store and to what is served from it.

The model is a store in memory (pointers, files that are sound or not) and an engine's slots. A load
is done as the loader does it, one after another, and may fail at any of its steps.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from factories import random_adapter
from jumplora_adapters.routing import Routing, Staged
from jumplora_server.errors import (
    AdapterUnavailable,
    OutOfMemoryBudget,
    UnknownTask,
    UnknownVersion,
)
from jumplora_server.residency.entries import Known, LoadFailure, Staging, State, VersionFacts
from jumplora_server.residency.folding import Folding, plan
from jumplora_server.residency.setback import Waits
from jumplora_server.residency.status import status_of
from jumplora_server.residency.table import Table
from small_server import BACKBONE

BUDGET = 40
# digest -> (its manifest's task, ancestors, bytes)
WORLD: dict[str, tuple[str, tuple[str, ...], int]] = {
    "a" * 64: ("a", (), 10),
    "b" * 64: ("a", (), 12),
    "c" * 64: ("b", ("a" * 64,), 8),
    "d" * 64: ("c", ("a" * 64, "c" * 64), 6),
    "e" * 64: ("c", (), 25),
    "f" * 64: ("d", (), 41),  # never fits
}
TASKS = st.sampled_from(["a", "b", "c", "d", "copy"])
DIGESTS = st.sampled_from(sorted(WORLD))
SHARES = st.sampled_from([0.0, 0.1, 0.37, 1.0])
STEPS = st.sampled_from([*["none"] * 8, "read", "measure", "install", "warm up"])
MANIFEST, _ = random_adapter(BACKBONE)
TRUNK = 9


def known(digest: str) -> Known:
    task, ancestors, size = WORLD[digest]
    return Known(VersionFacts(digest, task, ancestors, size), MANIFEST)


def needed(digest: str, rule: Folding) -> tuple[Known, ...]:
    return plan([known(each) for each in (*WORLD[digest][1], digest)], digest, rule)


class TableMachine(RuleBasedStateMachine):
    """`pointers` and `corrupt` are the store; `installed` is what the engine holds."""

    folding = Folding("never", BUDGET, 0, lambda sites: TRUNK)

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.table = Table(BUDGET, Waits())
        self.pointers: dict[str, str] = {}
        self.stored: dict[str, set[str]] = {}  # task -> the versions in its folder
        self.garbled: set[str] = set()  # tasks whose pointer cannot be read
        self.corrupt: set[str] = set()  # versions whose files are damaged
        self.pinned: set[str] = set()
        self.installed: dict[int, str] = {}
        self.leases: Counter[str] = Counter()
        self.rows: list[tuple[str, tuple[int, ...]]] = []
        self.next_slot = 0
        self.staged: dict[str, Staged] = {}
        self.times = 0

    # The store

    @rule(digest=DIGESTS)
    def publish_and_serve(self, digest: str) -> None:
        """What happens most of the time."""
        self.publish_or_copy_or_move(WORLD[digest][0], digest)
        self.settle(WORLD[digest][0], True, "none")

    @rule(digest=DIGESTS)
    def copy_and_settle(self, digest: str) -> None:
        self.publish_or_copy_or_move("copy", digest)
        self.settle("copy", True, "none")

    @rule(task=TASKS, digest=DIGESTS)
    def publish_or_copy_or_move(self, task: str, digest: str) -> None:
        """A file and a pointer to it; of another task where somebody copied a folder."""
        self.stored.setdefault(task, set()).add(digest)
        self.pointers[task] = digest
        self.garbled.discard(task)

    @precondition(lambda self: self.pointers)
    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.pointers)))
        self.pointers[task] = data.draw(st.sampled_from(sorted(self.stored[task])))

    @rule(task=TASKS, share=SHARES, data=st.data())
    def stage(self, task: str, share: float, data: st.DataObject) -> None:
        others = sorted(self.stored.get(task, set()) - {self.pointers.get(task)})
        if task in self.pointers and others:
            self.times += 1
            self.staged[task] = Staged(data.draw(st.sampled_from(others)), share, str(self.times))

    @rule(digest=DIGESTS, share=SHARES)
    def stage_and_settle(self, digest: str, share: float) -> None:
        """What happens most of the time."""
        task = WORLD[digest][0]
        if task in self.pointers and self.pointers[task] != digest:
            self.stored[task].add(digest)
            self.times += 1
            self.staged[task] = Staged(digest, share, str(self.times))
            self.settle(task, True, "none")

    @rule(task=TASKS)
    def promote(self, task: str) -> None:
        if task in self.staged:
            self.pointers[task] = self.staged.pop(task).version
            self.settle(task, True, "none")

    @rule(task=TASKS)
    def unstage(self, task: str) -> None:
        self.staged.pop(task, None)

    @rule(digest=DIGESTS)
    def corrupt_file(self, digest: str) -> None:
        self.corrupt.add(digest)

    @rule(digest=DIGESTS)
    def repair_file(self, digest: str) -> None:
        self.corrupt.discard(digest)

    @rule(task=TASKS)
    def garble_pointer(self, task: str) -> None:
        if task in self.pointers:
            self.garbled.add(task)

    @rule(task=TASKS)
    def repair_pointer(self, task: str) -> None:
        self.garbled.discard(task)

    @rule(task=TASKS)
    def remove(self, task: str) -> None:
        self.pointers.pop(task, None)
        self.stored.pop(task, None)
        self.staged.pop(task, None)
        self.garbled.discard(task)
        self.table.forget(task)
        self.pinned.discard(task)
        self.tidy()

    # Requests

    @rule(task=TASKS, digest=st.none() | DIGESTS)
    def acquire(self, task: str, digest: str | None) -> None:
        spec = task if digest is None else f"{task}@{digest}"
        try:
            found = self.table.acquire(spec, self.now)
            if isinstance(found, str):
                if found in self.corrupt:
                    return
                found = self.table.acquire(spec, self.now, known(found))
        except (UnknownTask, UnknownVersion, AdapterUnavailable):
            return
        assert not isinstance(found, str)
        assert found.ref.task == task, "a task is answered by its own versions only"
        assert found.ref.lineage == (*WORLD[found.ref.version][1], found.ref.version)
        if digest is not None:
            assert found.ref.version == digest, "who names a version gets that one"
        elif found.role == "staged":
            self.check_staged(task, found.ref.version)
        else:
            served = self.table.routing.routes[task].served
            assert served is not None
            assert served.version == found.ref.version
        self.leases[found.ref.version] += 1

    def check_staged(self, task: str, digest: str) -> None:
        """Nothing that did not pass here, or that is not staged, answers by its share."""
        route = self.table.routing.routes[task]
        assert route.staged is not None
        assert route.staged.version == digest
        assert route.staged.share > 0
        assert route.staging == Staging(digest, is_open=True)
        assert self.table.versions.known[digest].is_resident

    @rule(task=TASKS, count=st.integers(1, 60))
    def ask_often(self, task: str, count: int) -> None:
        """While nothing changes, the share is kept to within two requests."""
        route = self.table.routing.routes.get(task)
        staging = None if route is None else route.staging
        if route is None or route.served is None or staging is None or not staging.is_open:
            return
        states = self.table.versions.state(route.served.version), staging.version
        if states[0] is State.FAILED or not self.table.versions.is_resident(states[1]):
            return
        staged = 0
        for _ in range(count):
            found = self.table.acquire(task, self.now)
            if isinstance(found, str):
                return
            staged += found.role == "staged"
            self.table.release(found.ref.version)
        share = 0.0 if route.staged is None else route.staged.share
        assert abs(staged - share * count) <= 2

    @precondition(lambda self: +self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(+self.leases)))
        if self.leases[digest] > sum(row[0] == digest for row in self.rows):
            self.table.release(digest)
            self.leases[digest] -= 1
            self.tidy()

    @precondition(lambda self: +self.leases)
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(+self.leases)))
        if self.leases[digest] <= sum(row[0] == digest for row in self.rows):
            return
        try:
            slots = self.table.claim(digest, "in_service")
        except AdapterUnavailable:
            return
        if slots is not None:
            self.check_slots(digest, slots)
            self.rows.append((digest, slots))

    def check_slots(self, digest: str, slots: tuple[int, ...]) -> None:
        own = next(k for k in needed(digest, self.folding) if k.facts.digest == digest)
        assert own.parts is not None
        assert [self.installed[slot] for slot in slots] == [*own.parts, digest]

    @precondition(lambda self: self.rows)
    @rule()
    def unclaim(self) -> None:
        digest, _ = self.rows.pop()
        self.table.unclaim(digest)
        self.tidy()

    @rule(task=TASKS, is_pinned=st.booleans())
    def pin(self, task: str, is_pinned: bool) -> None:
        if task not in self.table.routing.routes:
            return
        self.table.pin(task, "pinned" if is_pinned else "unpinned")
        (self.pinned.add if is_pinned else self.pinned.discard)(task)

    # The loader

    @rule(seconds=st.sampled_from([0.5, 5.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(task=TASKS, retry=st.booleans(), step=STEPS)
    def settle(self, task: str, retry: bool, step: str) -> None:
        if task not in self.pointers:
            self.table.forget(task)
            self.pinned.discard(task)
        elif task in self.garbled:
            before = self.table.routing.routes.get(task)
            self.table.blame(task, LoadFailure("store", "garbage"), self.now)
            after = self.table.routing.routes[task]
            assert after.failure is not None
            assert after.served == (None if before is None else before.served)
        else:
            versions = tuple(sorted(self.stored[task]))
            staged = self.staged.get(task)
            if staged is not None and staged.version == self.pointers[task]:
                staged = None
            self.table.observe(task, self.pointers[task], versions, Routing(staged))
            outcome = "as it should be"
            for digest in self.table.candidates(task, self.now, retry=retry):
                outcome = self.load(task, digest, step)
                if outcome == "ready":
                    self.table.flip(task, digest)
                if outcome != "failed":
                    break
            if retry and step == "none" and outcome != "no room":
                self.check_settled(task)
            self.open_staged(task, retry, step)
        self.tidy()

    def open_staged(self, task: str, retry: bool, step: str) -> None:
        digest = self.table.to_open(task, self.now, retry=retry)
        if digest is None:
            return
        self.table.expect_staged(task, known(digest))
        if self.load(task, digest, step) == "ready":
            assert self.table.open(task, digest) is None
            assert self.table.routing.routes[task].staging == Staging(digest, is_open=True)

    def check_settled(self, task: str) -> None:
        """A sound version of its own task is served, unless there was no room for it."""
        route, wanted = self.table.routing.routes[task], self.pointers[task]
        lineage = (*WORLD[wanted][1], wanted)
        is_sound = WORLD[wanted][0] == task and not self.corrupt & set(lineage)
        if is_sound and route.failure is not None:
            assert route.failure.code == "memory_budget"
        if route.served is not None and route.served.version == wanted:
            version = self.table.versions.known[wanted]
            assert WORLD[wanted][0] == task
            assert route.failure is None or not version.is_resident

    def load(self, task: str, digest: str, step: str) -> str:
        """As Loader._load: "ready", "failed" or "no room"."""
        loading: tuple[str, ...] = ()
        try:
            revived = self.table.revive(task, digest)
            if isinstance(revived, LoadFailure):
                raise AdapterUnavailable(revived.message, reason=revived.code)
            if not revived:
                lineage = (*WORLD[digest][1], digest)
                if self.corrupt & set(lineage) or step == "read":
                    raise AdapterUnavailable("damaged", reason="digest")
                if WORLD[digest][0] != task:
                    raise AdapterUnavailable("another task's", reason="manifest")
                begun = self.table.begin(needed(digest, self.folding), digest, "evict")
                if begun is None:
                    return "no room"
                loading = begun
                self.tidy()
                for each in loading:
                    if step == "measure":
                        raise AdapterUnavailable("not packable", reason="internal")
                    nbytes = WORLD[each][2] if each in WORLD else TRUNK
                    if not self.table.measure(each, nbytes, loading):
                        self.tidy()
                        return "no room"
                    self.tidy()
                    if step == "install":
                        raise AdapterUnavailable("no memory", reason="out_of_memory")
                    self.next_slot += 1
                    self.installed[self.next_slot] = each
                    self.table.versions.install(each, self.next_slot, 1, 0.5)
                if step == "warm up":
                    raise AdapterUnavailable("not finite", reason="nonfinite")
        except (AdapterUnavailable, OutOfMemoryBudget) as error:
            failure = LoadFailure(error.reason or "x", error.message)
            self.table.fail(
                task, digest, failure, loading=loading, seen={digest: (1,)}, now=self.now
            )
            after = self.table.versions.known.get(digest)
            if after is not None and after.leases and WORLD[digest][0] == task:
                assert after.state is not State.COLD, "its sequences would order it for ever"
            self.tidy()
            return "failed"
        self.table.commit(task, digest, loading)
        return "ready"

    @rule(digest=DIGESTS, step=STEPS)
    def fetch(self, digest: str, step: str) -> None:
        task = self.table.wanted_by(digest)
        if task is not None:
            self.load(task, digest, step)
            self.tidy()

    def tidy(self) -> None:
        for freed in self.table.versions.take_freed():
            del self.installed[freed.slot]  # KeyError: freed twice
        self.table.take_removed()
        self.table.take_orders()

    @invariant()
    def holds(self) -> None:
        versions = self.table.versions.known
        trunks = sum(trunk.nbytes for trunk in self.table.versions.trunks)
        assert self.table.versions.used_bytes <= BUDGET + trunks
        assert {v.slot: d for d, v in versions.items() if v.slot >= 0} == self.installed
        assert not [v for v in versions.values() if v.state is State.LOADING]
        for digest, slots in self.rows:
            self.check_slots(digest, slots)
        for task, route in self.table.routing.routes.items():
            if route.served is not None:
                assert WORLD[route.served.version][0] == task
            if route.staging is not None:
                assert route.staging.version in versions
                assert not route.serves(route.staging.version)
            status = status_of(self.table, task, "host", self.now)
            assert (status.failure is None) == (status.retry_in is None)
            assert status.in_flight == sum(
                count for d, count in self.leases.items() if WORLD[d][0] == task
            )
        assert self.table.noticed().keys() == self.table.routing.routes.keys()
        assert {task for task, _ in self.table.suspects()} <= self.table.noticed().keys()
        for digest, version in versions.items():
            assert version.serving == {
                task
                for task, route in self.table.routing.routes.items()
                if (route.served is not None and route.served.version == digest)
                or (route.staging is not None and route.staging.version == digest)
            }
            assert version.leases == self.leases[digest]
            if version.is_resident:
                assert all(versions[each].is_resident for each in version.needs)

    def teardown(self) -> None:
        while self.rows:
            self.unclaim()
        for digest in self.leases.elements():
            self.table.release(digest)
        self.table.clear()
        self.tidy()
        assert self.installed == {}
        assert dict(self.table.versions.known) == {}
        assert self.table.take_removed() == []


class FoldedMachine(TableMachine):
    """The same with trunks."""

    folding = Folding("always", BUDGET, 0, lambda sites: TRUNK)


TestTable = TableMachine.TestCase
TestFolded = FoldedMachine.TestCase
TestTable.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestFolded.settings = TestTable.settings
