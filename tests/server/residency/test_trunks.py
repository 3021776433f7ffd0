"""Trunks in the table and in a server: who needs them, when they go, and what they never refuse."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import random_adapter
from fakes import FakeEngine
from jumplora_server.core import Lease
from jumplora_server.errors import AdapterUnavailable, OutOfMemoryBudget
from jumplora_server.residency.entries import Freed, Known, VersionFacts
from jumplora_server.residency.folding import Folding, plan
from jumplora_server.residency.versions import Versions
from jumplora_server.setting_groups import Fold
from small_server import BACKBONE, SmallServer, wait_until

MANIFEST, _ = random_adapter(BACKBONE)


class Chain:
    """A table with the loader's part done at once. Version "c3" is the third of the chain "c"; all
    take 10 bytes, trunks 20."""

    def __init__(self, budget: int, fold: Fold = "always", trunk: int = 20) -> None:
        self.versions = Versions(budget)
        self.folding = Folding(fold, budget, int(0.75 * budget), lambda sites: trunk)
        self.next_slot = 100

    def load(self, name: str, nbytes: int = 10, beside: str | None = None) -> list[int] | None:
        """Load and serve; how many versions each that was loaded merges, or None without room."""
        names = [f"{name[0]}{depth}" for depth in range(1, int(name[1:]) + 1)]
        lineage = [
            Known(VersionFacts(each, each, tuple(names[:i]), nbytes), MANIFEST)
            for i, each in enumerate(names)
        ]
        for known in plan(lineage, name, self.folding):
            self.versions.know(known)
        loading = self.versions.begin(name, beside=beside, room="evict")
        for each in loading or ():
            version = self.versions.known[each]
            size = version.nbytes if version.is_trunk else nbytes
            try:
                assert self.versions.measure(each, size, beside), "nothing is leased"
            except OutOfMemoryBudget:
                self.versions.abort(loading or ())
                raise
            self.next_slot += 1
            self.versions.install(each, self.next_slot, 3, 0.5)
        for each in loading or ():
            self.versions.ready(each)
        if loading is None:
            return None
        self.versions.serve(name, name)
        return [len(self.versions.known[each].folds) for each in loading]

    @property
    def resident(self) -> set[str]:
        """Resident versions by name; a trunk by how many versions it merges."""
        versions = self.versions.known.values()
        return {str(len(v.folds)) if v.is_trunk else v.digest for v in versions if v.is_resident}


def test_siblings_share_a_trunk_and_ancestors_stay_cold() -> None:
    table = Chain(100)
    assert table.load("a4") == [3, 0]
    assert table.resident == {"3", "a4"}
    assert table.versions.claim("a4", "in_service") == (101, 102)
    assert table.versions.known["a4"].ref.lineage == ("a1", "a2", "a3", "a4")
    assert table.versions.known["a4"].folded_depth == 3
    assert table.load("a1") == [0], "it is served itself"
    assert table.versions.known["a1"].folded_depth == 0
    assert [trunk.nbytes for trunk in table.versions.trunks] == [20]
    assert table.versions.used_bytes == 40


def test_a_trunk_is_evicted_after_what_uses_it() -> None:
    table = Chain(45)
    table.load("a2")
    table.load("b1")
    (trunk,) = table.versions.trunks
    table.versions.lease("a2")
    table.versions.unlease("a2")
    assert table.resident == {"1", "a2", "b1"}
    table.load("c1")
    assert table.resident == {"1", "a2", "c1"}, "b1 was used least"
    table.versions.lease("c1")
    table.load("d1")
    assert table.resident == {"1", "c1", "d1"}, "a2 first: its trunk is needed"
    table.load("e1", nbytes=20)
    assert table.resident == {"c1", "e1"} or table.resident == {"c1", "d1", "e1"}
    assert Freed(101, "", trunk.digest, "lru") in table.versions.take_freed()


def test_a_trunk_leaves_with_the_last_version_that_knows_it() -> None:
    table = Chain(100)
    table.load("a2")
    table.versions.retire("a2", "a2", "unload")
    assert dict(table.versions.known) == {}
    assert [freed.slot for freed in table.versions.take_freed()] == [102, 101]


def test_trunks_that_must_stay_may_go_over_the_budget() -> None:
    table = Chain(45)
    table.load("a2")
    table.load("b1")
    table.versions.pin("a2", "pinned")
    assert table.load("c2") == [1, 0], "20 + 10 are pinned, and 20 + 10 are needed"
    assert table.resident == {"1", "a2", "c2"}, "all that could go went first"
    assert table.versions.used_bytes == 60
    assert table.load("c2") == [], "what is resident needs no room"
    table.versions.pin("c2", "pinned")
    assert table.load("d1") == [0]
    table.versions.pin("d1", "pinned")
    with pytest.raises(OutOfMemoryBudget, match="46 bytes have to stay; "):
        table.load("e1", nbytes=16)
    table.versions.retire("a2", "a2", "unload")
    assert table.versions.used_bytes == 40, "its trunk leaves at once"


def test_over_the_budget_what_is_in_use_is_waited_for() -> None:
    table = Chain(45)
    table.load("a2")
    table.load("b1")
    table.versions.pin("a2", "pinned")
    table.versions.lease("b1")
    assert table.load("c2") is None
    table.versions.yield_for("c2", None)
    assert table.versions.known["b1"].is_yielding
    table.versions.unlease("b1")
    assert table.load("c2") == [1, 0]


def test_an_unneeded_trunk_does_not_keep_the_table_over_the_budget() -> None:
    table = Chain(45)
    table.load("a2")
    table.versions.pin("a2", "pinned")
    table.load("c2")
    table.versions.pin("a2", "unpinned")
    table.versions.lease("c2")
    table.versions.serve("a2", "other")  # it stays known when it is evicted
    table.load("d1")
    assert table.resident == {"1", "c2", "d1"}
    assert table.versions.used_bytes == 40


def test_a_draining_ancestor_stays_while_another_load_needs_it() -> None:
    """Its only holder is evicted for a load that needs it too."""
    table = Versions(30)
    for name, ancestors in (("a", ()), ("b", ("a",)), ("c", ("a",))):
        facts = VersionFacts(name, name, ancestors, 10 + 5 * (name == "c"))
        table.know(Known(facts, MANIFEST))
    for slot, name in enumerate("ab"):
        assert table.begin(name, beside=None, room="evict") == (name,)
        table.install(name, slot, 1, 0.5)
        table.ready(name)
        table.serve(name, name)
    table.retire("a", "a", "unload")
    assert table.begin("c", beside=None, room="evict") == ("c",)
    table.install("c", 2, 1, 0.5)
    table.ready("c")
    assert table.claim("c", "in_service") == (0, 2)
    assert [freed.slot for freed in table.take_freed()] == [1]


def test_the_room_of_a_draining_ancestor_counts() -> None:
    """It leaves with the last version that needs it, and a load may wait for just that."""
    table = Versions(30)
    for name, ancestors, nbytes in (("a", (), 10), ("b", ("a",), 10), ("c", (), 25)):
        table.know(Known(VersionFacts(name, name, ancestors, nbytes), MANIFEST))
        if name != "c":
            table.begin(name, beside=None, room="evict")
            table.install(name, 0, 1, 0.5)
            table.ready(name)
            table.serve(name, name)
    table.retire("a", "a", "unload")
    assert table.begin("c", beside=None, room="evict") == ("c",)


names = st.builds(lambda chain, depth: f"{chain}{depth}", st.sampled_from("abc"), st.integers(1, 6))


@given(
    budget=st.integers(10, 150),
    trunk=st.integers(1, 60),
    pinned=st.lists(names, max_size=3),
    loads=st.lists(names, min_size=1, max_size=6),
)
def test_nothing_is_refused_because_of_trunks(
    budget: int, trunk: int, pinned: list[str], loads: list[str]
) -> None:
    """What loads without folding beside the same pinned versions loads with it, at once."""
    tables = [Chain(budget, fold, trunk) for fold in ("never", "auto", "always")]
    for name in [*pinned, *loads]:
        try:
            assert tables[0].load(name) is not None, "nothing is leased"
        except OutOfMemoryBudget:
            continue
        if name in pinned:
            tables[0].versions.pin(name, "pinned")
        for table in tables[1:]:
            assert table.load(name) is not None
            if name in pinned:
                table.versions.pin(name, "pinned")
            trunks = sum(trunk.nbytes for trunk in table.versions.trunks)
            assert table.versions.used_bytes <= budget + trunks


def publish_chain(server: SmallServer, length: int) -> list[str]:
    digests: list[str] = []
    for depth in range(1, length + 1):
        digests.append(server.publish(f"task{depth}", seed=depth, lineage=digests))
    return digests


def forms(server: SmallServer, lease: Lease) -> list[tuple[str, ...]]:
    """What the slots of a row hold: the digests that each merges."""
    assert lease.ref is not None
    slots = server.residency.table.claim(lease.ref, "normal")
    assert slots is not None
    server.residency.table.unclaim(lease.ref)
    return [server.engine.slots[slot].versions for slot in slots]


def test_a_version_is_computed_the_same_way_whatever_was_loaded_before(tmp_path: Path) -> None:
    seen: dict[str, list[tuple[str, ...]]] = {}
    for number, order in enumerate(permutations(["task2", "task3", "task4", "task5"])):
        # A budget for few of them, and one of them pinned.
        engine = FakeEngine(site_bytes=130)
        with SmallServer(tmp_path / str(number), engine=engine, budget_bytes=700) as server:
            server.engine.nbytes = lambda adapter: 50
            publish_chain(server, 5)
            server.settle(order[0])
            server.residency.pin(order[0], "pinned")
            for task in order:
                server.settle(task)
                with server.residency.acquire(task) as lease:
                    assert forms(server, lease) == seen.setdefault(task, forms(server, lease))
    assert [len(slot) for slot in seen["task5"]] == [3, 1, 1]
    assert [len(slot) for slot in seen["task4"]] == [3, 1]
    assert [len(slot) for slot in seen["task3"]] == [1, 1, 1]


def test_a_folded_chain_answers_and_shows_how(tmp_path: Path) -> None:
    with SmallServer(tmp_path, fold="always", budget_bytes=1000) as server:
        digests = publish_chain(server, 4)
        server.settle("task4")
        said = "+".join(digest[:8] for digest in digests)
        assert server.generate("task4") == f"{said}:hi"
        assert server.engine.packed == digests[3:], "the ancestors were only merged"
        assert server.engine.folded == [tuple(digests[:3])]
        status = server.residency.status("task4")
        assert (status.folded_depth, status.trunk_bytes, status.bytes_host) == (3, 100, 100)
        assert server.metric("jumplora_trunks") == 1
        assert server.metric("jumplora_trunk_memory_bytes") == 100
        assert server.metric("jumplora_adapter_budget_used_bytes") == 200
        folds = server.metric("jumplora_adapter_load_seconds_count", stage="fold")
        assert folds == 1
        tasks = [each.task_id for each in server.residency.each_status()]
        assert tasks == ["task4"], "no trunk is listed"
        server.store.remove("task4")
        server.residency.forget("task4")
        wait_until(lambda: not server.engine.slots)
        wait_until(lambda: server.metric("jumplora_trunks") == 0)


def test_a_damaged_ancestor_fails_the_load(tmp_path: Path) -> None:
    with SmallServer(tmp_path, fold="always") as server:
        digests = publish_chain(server, 3)
        path = server.store.path_of(digests[0])
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.chmod(0o644)
        path.write_bytes(content)
        server.settle("task3")
        failure = server.residency.status("task3").failure
        assert failure is not None
        assert failure.code == "digest"
        with pytest.raises(AdapterUnavailable):
            server.residency.acquire("task3")
        wait_until(lambda: not server.engine.slots)
