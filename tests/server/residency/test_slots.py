"""The table of versions: literal cases of loading, evicting, draining, failing and yielding."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from jumplora_server.errors import OutOfMemoryBudget
from jumplora_server.residency.slots import Room, Slots
from jumplora_server.residency.status import State
from jumplora_server.residency.version import Freed, VersionFacts
from jumplora_server.routing import LoadFailure

FAILURE = LoadFailure("digest", "bit flipped")


class Table:
    """Slots with the loader's part done at once: 10 bytes a version unless told otherwise."""

    def __init__(self, budget: int = 30) -> None:
        self.slots = Slots(budget)
        self.next_slot = 100

    def know(self, name: str, ancestors: Sequence[str] = (), nbytes: int = 10) -> None:
        self.slots.know(VersionFacts(name, f"task-{name[0]}", tuple(ancestors), nbytes))
        self.slots.versions[name].size = "measured"

    def load(
        self, name: str, *, beside: str | None = None, room: Room = "evict"
    ) -> tuple[str, ...] | None:
        """Load a known version; what had to be loaded, or None without room."""
        loading = self.slots.begin(name, beside=beside, room=room)
        for each in loading or ():
            self.next_slot += 1
            self.slots.install(each, self.next_slot, 3, 0.5)
        for each in loading or ():
            self.slots.ready(each)
        return loading

    def add(self, *names: str, ancestors: Sequence[str] = (), nbytes: int = 10) -> None:
        """Know, load and serve versions."""
        for name in names:
            self.know(name, ancestors, nbytes)
            assert self.load(name) is not None
            self.slots.serve(name)

    def states(self) -> dict[str, str]:
        return {digest: v.state.value for digest, v in sorted(self.slots.versions.items())}


def test_the_least_recently_used_one_goes() -> None:
    table = Table()
    table.add("a", "b", "c")
    for name in "bca":
        table.slots.lease(name)
        table.slots.unlease(name)
    table.add("d")
    assert table.states() == {"a": "READY", "b": "COLD", "c": "READY", "d": "READY"}
    assert table.slots.take_freed() == [Freed(102, "task-b", "lru")]
    assert table.slots.used_bytes == 30


def test_what_is_leased_stays() -> None:
    table = Table()
    table.add("a", "b", "c")
    for name in "abc":
        table.slots.lease(name)
    table.know("d")
    assert table.load("d") is None
    table.slots.unlease("c")
    assert table.load("d") == ("d",)
    assert table.states()["c"] == "COLD"


def test_what_is_pinned_stays_and_counts_against_what_can_fit() -> None:
    table = Table()
    table.add("a", "b", "c")
    table.slots.pin("task-a", "pinned")
    table.slots.pin("task-b", "pinned")
    table.add("d")
    assert table.states()["c"] == "COLD"
    table.know("e", nbytes=11)
    with pytest.raises(OutOfMemoryBudget, match="11 more bytes are needed beside 20"):
        table.load("e")
    table.slots.pin("task-b", "unpinned")
    assert table.load("e") == ("e",)


def test_too_large_is_refused_and_changes_nothing() -> None:
    table = Table()
    table.add("a")
    table.know("big", nbytes=31)
    with pytest.raises(OutOfMemoryBudget):
        table.load("big")
    assert table.states() == {"a": "READY", "big": "COLD"}
    assert table.slots.take_freed() == []


def test_free_room_only_evicts_nothing() -> None:
    table = Table()
    table.add("a", "b", "c")
    table.know("d")
    assert table.load("d", room="free") is None
    assert table.states()["d"] == "COLD"


def test_the_replaced_version_stays_until_the_flip() -> None:
    table = Table(budget=20)
    table.add("a1", "b")
    table.know("a2")
    table.load("a2", beside="a1")
    assert table.states() == {"a1": "READY", "a2": "READY", "b": "COLD"}
    table.slots.lease("a1")
    table.slots.serve("a2")
    table.slots.retire("a1", "replaced")
    assert table.states()["a1"] == "DRAINING"
    table.slots.unlease("a1")
    assert "a1" not in table.slots.versions
    assert table.slots.take_freed()[-1] == Freed(101, "task-a", "replaced")


def test_no_room_for_two_versions() -> None:
    table = Table(budget=15)
    table.add("a1")
    table.know("a2")
    with pytest.raises(OutOfMemoryBudget):
        table.load("a2", beside="a1")
    assert table.states()["a1"] == "READY"


def test_a_draining_version_can_come_back() -> None:
    table = Table()
    table.add("a1", "a2")
    table.slots.lease("a1")
    table.slots.retire("a1", "replaced")
    assert table.load("a1") == (), "it is still there"
    table.slots.unlease("a1")
    table.slots.serve("a1")
    assert table.states()["a1"] == "READY"


def test_ancestors_come_and_stay_with_their_descendants() -> None:
    table = Table()
    table.know("a")
    table.know("b", ["a"])
    table.know("c", ["a", "b"])
    assert table.load("c") == ("a", "b", "c")
    assert table.slots.claim("c", "in_service") == (101, 102, 103)
    table.slots.unclaim("c")
    table.slots.lease("c")
    table.know("d")
    assert table.load("d") is None, "a and b are used by c"
    table.slots.unlease("c")
    assert table.load("d") == ("d",)
    assert [freed.slot for freed in table.slots.take_freed()] == [103], "descendants first"


def test_a_shared_ancestor_is_loaded_once() -> None:
    table = Table()
    table.add("a")
    table.add("b", "c", ancestors=["a"])
    assert table.slots.used_bytes == 30
    assert table.slots.claim("b", "in_service") == (101, 102)
    assert table.slots.claim("c", "in_service") == (101, 103)


def test_a_retired_ancestor_drains_until_no_descendant_needs_it() -> None:
    table = Table()
    table.add("a")
    table.add("b", ancestors=["a"])
    table.slots.retire("a", "unload")
    assert table.states()["a"] == "DRAINING"
    table.slots.retire("b", "unload")
    assert table.states() == {}
    assert [freed.slot for freed in table.slots.take_freed()] == [102, 101]


def test_a_hidden_version_serves_warm_ups_only() -> None:
    table = Table()
    table.know("a")
    assert table.slots.begin("a", beside=None, room="evict") == ("a",)
    assert table.slots.claim("a", "hidden") is None, "not installed yet"
    table.slots.install("a", 7, 3, 0.5)
    assert table.slots.claim("a", "in_service") is None
    assert table.slots.claim("a", "hidden") == (7,)
    table.slots.unclaim("a")
    table.slots.ready("a")
    assert table.slots.claim("a", "in_service") == (7,)


def test_a_failed_load_leaves_nothing_resident() -> None:
    table = Table()
    table.know("a")
    table.know("b", ["a"])
    table.slots.lease("b")
    assert table.slots.begin("b", beside=None, room="evict") == ("a", "b")
    table.slots.install("a", 7, 3, 0.5)
    table.slots.abort(["a", "b"])
    table.slots.fail("b", FAILURE, now=5.0)
    assert table.states() == {"b": "FAILED"}
    assert table.slots.used_bytes == 0
    assert table.slots.take_freed() == [Freed(7, "task-a", "unload")]
    table.slots.retry("b")
    assert table.slots.state("b") is State.COLD
    table.slots.unlease("b")
    assert table.slots.versions == {}


def test_measured_bytes_replace_the_file_size() -> None:
    table = Table()
    table.add("a", "b")
    table.know("c", nbytes=4)
    assert table.slots.begin("c", beside=None, room="evict") == ("c",)
    assert table.slots.measure("c", 12, None)
    assert table.states()["a"] == "COLD", "it had to go for the rest"
    table.slots.lease("b")
    assert not table.slots.measure("c", 25, None), "b is in use"
    table.slots.lease("c")
    table.slots.abort(["c"])
    assert table.slots.versions["c"].nbytes == 25, "known from now on"
    table.slots.unlease("b")
    assert table.slots.begin("c", beside=None, room="evict") == ("c",)
    with pytest.raises(OutOfMemoryBudget):
        table.slots.measure("c", 31, None)


def test_a_guessed_size_does_not_refuse() -> None:
    table = Table(budget=20)
    table.add("a1")
    table.slots.know(VersionFacts("a2", "task-a", (), 999))
    assert table.slots.begin("a2", beside="a1", room="free") is None
    assert table.slots.begin("a2", beside="a1", room="evict") == ("a2",)
    assert table.slots.used_bytes == 20, "all that can be had is reserved"
    assert table.slots.measure("a2", 9, "a1")
    with pytest.raises(OutOfMemoryBudget):
        table.slots.measure("a2", 11, "a1")


def test_what_is_always_in_use_yields_to_one_that_waited() -> None:
    table = Table()
    table.add("a", "b", "c")
    for name in "abc":
        table.slots.lease(name)
        table.slots.claim(name, "in_service")
    table.know("d")
    assert table.load("d") is None
    table.slots.yield_for("d", None)
    assert table.slots.claim("a", "in_service") is None, "resident longest: no new rows"
    assert table.slots.claim("b", "in_service") is not None
    assert table.load("d") is None, "a's row still runs"
    table.slots.unclaim("a")
    assert table.load("d") == ("d",)
    assert table.slots.versions["a"].leases == 1
    assert table.states() == {"a": "COLD", "b": "READY", "c": "READY", "d": "READY"}
    table.slots.yield_for("a", None)
    assert table.slots.versions["b"].is_yielding
    table.slots.unyield()
    assert not table.slots.versions["b"].is_yielding


@pytest.mark.parametrize("how", ["READY", "DRAINING"])
def test_a_resident_version_cannot_fail(how: str) -> None:
    table = Table()
    table.add("a")
    table.slots.lease("a")
    if how == "DRAINING":
        table.slots.serve("a")
        table.slots.retire("a", "replaced")
    table.slots.fail("a", FAILURE, now=5.0)
    assert table.states() == {"a": how}
    assert table.slots.revive("a")
    assert table.states() == {"a": "READY"}
    assert not table.slots.revive("b")
