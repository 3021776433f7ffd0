"""The table of versions: literal cases of loading, evicting, draining, failing and yielding."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from factories import random_adapter
from jumplora_server.errors import OutOfMemoryBudget
from jumplora_server.residency.entries import Freed, Known, LoadFailure, State, VersionFacts
from jumplora_server.residency.room import closure
from jumplora_server.residency.versions import Room, Versions
from small_server import BACKBONE

MANIFEST, _ = random_adapter(BACKBONE)
FAILURE = LoadFailure("digest", "bit flipped")


def test_a_profile_is_no_part_of_the_guess() -> None:
    versions = Versions(100)
    for name, profile_bytes in (("a", 960), ("b", 9999)):  # the header of b lies
        facts = VersionFacts(name, f"task-{name}", (), 1000, profile_bytes)
        versions.know(Known(facts, MANIFEST))
    assert [versions.known[name].nbytes for name in ("a", "b")] == [40, 0]
    assert versions.known["a"].size == "guessed"
    assert versions.begin("a", beside=None, room="evict") == ("a",)
    assert versions.used_bytes == 40


class Loading:
    """Versions with the loader's part done at once: 10 bytes a version unless told otherwise."""

    def __init__(self, budget: int = 30) -> None:
        self.versions = Versions(budget)
        self.next_slot = 100

    def know(self, name: str, ancestors: Sequence[str] = (), nbytes: int = 10) -> None:
        facts = VersionFacts(name, f"task-{name[0]}", tuple(ancestors), nbytes)
        self.versions.know(Known(facts, MANIFEST))
        self.versions.known[name].size = "measured"

    def load(
        self, name: str, *, beside: str | None = None, room: Room = "evict"
    ) -> tuple[str, ...] | None:
        """Load a known version; what had to be loaded, or None without room."""
        loading = self.versions.begin(name, beside=beside, room=room)
        for each in loading or ():
            self.next_slot += 1
            self.versions.install(each, self.next_slot, 3, 0.5)
        for each in loading or ():
            self.versions.ready(each)
        return loading

    def add(self, *names: str, ancestors: Sequence[str] = (), nbytes: int = 10) -> None:
        """Know, load and serve versions."""
        for name in names:
            self.know(name, ancestors, nbytes)
            assert self.load(name) is not None
            self.versions.serve(name, f"task-{name[0]}")

    def states(self) -> dict[str, str]:
        return {digest: v.state.value for digest, v in sorted(self.versions.known.items())}


def test_the_least_recently_used_one_goes() -> None:
    table = Loading()
    table.add("a", "b", "c")
    for name in "bca":
        table.versions.lease(name)
        table.versions.unlease(name)
    table.add("d")
    assert table.states() == {"a": "READY", "b": "COLD", "c": "READY", "d": "READY"}
    assert table.versions.take_freed() == [Freed(102, "task-b", "b", "lru")]
    assert table.versions.used_bytes == 30


def test_what_is_leased_stays() -> None:
    table = Loading()
    table.add("a", "b", "c")
    for name in "abc":
        table.versions.lease(name)
    table.know("d")
    assert table.load("d") is None
    table.versions.unlease("c")
    assert table.load("d") == ("d",)
    assert table.states()["c"] == "COLD"


def test_what_is_pinned_stays_and_counts_against_what_can_fit() -> None:
    table = Loading()
    table.add("a", "b", "c")
    table.versions.pin("task-a", "pinned")
    table.versions.pin("task-b", "pinned")
    table.add("d")
    assert table.states()["c"] == "COLD"
    table.know("e", nbytes=11)
    with pytest.raises(OutOfMemoryBudget, match="20 bytes have to stay and 11 more are needed"):
        table.load("e")
    table.versions.pin("task-b", "unpinned")
    assert table.load("e") == ("e",)


def test_too_large_is_refused_and_changes_nothing() -> None:
    table = Loading()
    table.add("a")
    table.know("big", nbytes=31)
    with pytest.raises(OutOfMemoryBudget):
        table.load("big")
    assert table.states() == {"a": "READY", "big": "COLD"}
    assert table.versions.take_freed() == []


def test_free_room_only_evicts_nothing() -> None:
    table = Loading()
    table.add("a", "b", "c")
    table.know("d")
    assert table.load("d", room="free") is None
    assert table.states()["d"] == "COLD"


def test_the_replaced_version_stays_until_the_flip() -> None:
    table = Loading(budget=20)
    table.add("a1", "b")
    table.know("a2")
    table.load("a2", beside="a1")
    assert table.states() == {"a1": "READY", "a2": "READY", "b": "COLD"}
    table.versions.lease("a1")
    table.versions.serve("a2", "task-a")
    table.versions.retire("a1", "task-a", "replaced")
    assert table.states()["a1"] == "DRAINING"
    table.versions.unlease("a1")
    assert "a1" not in table.versions.known
    assert table.versions.take_freed()[-1] == Freed(101, "task-a", "a1", "replaced")


def test_no_room_for_two_versions() -> None:
    table = Loading(budget=15)
    table.add("a1")
    table.know("a2")
    with pytest.raises(OutOfMemoryBudget):
        table.load("a2", beside="a1")
    assert table.states()["a1"] == "READY"


def test_a_draining_version_can_come_back() -> None:
    table = Loading()
    table.add("a1", "a2")
    table.versions.lease("a1")
    table.versions.retire("a1", "task-a", "replaced")
    assert table.load("a1") == (), "it is still there"
    table.versions.unlease("a1")
    table.versions.serve("a1", "task-a")
    assert table.states()["a1"] == "READY"


def test_ancestors_come_and_stay_with_their_descendants() -> None:
    table = Loading()
    table.know("a")
    table.know("b", ["a"])
    table.know("c", ["a", "b"])
    assert table.load("c") == ("a", "b", "c")
    assert table.versions.claim("c", "in_service") == (101, 102, 103)
    table.versions.unclaim("c")
    table.versions.lease("c")
    table.know("d")
    assert table.load("d") is None, "a and b are used by c"
    table.versions.unlease("c")
    assert table.load("d") == ("d",)
    assert [freed.slot for freed in table.versions.take_freed()] == [103], "descendants first"


def test_a_shared_ancestor_is_loaded_once() -> None:
    table = Loading()
    table.add("a")
    table.add("b", "c", ancestors=["a"])
    assert table.versions.used_bytes == 30
    assert table.versions.claim("b", "in_service") == (101, 102)
    assert table.versions.claim("c", "in_service") == (101, 103)


def test_a_retired_ancestor_drains_until_no_descendant_needs_it() -> None:
    table = Loading()
    table.add("a")
    table.add("b", ancestors=["a"])
    table.versions.retire("a", "task-a", "unload")
    assert table.states()["a"] == "DRAINING"
    table.versions.retire("b", "task-b", "unload")
    assert table.states() == {}
    assert [freed.slot for freed in table.versions.take_freed()] == [102, 101]


def test_a_hidden_version_serves_warm_ups_only() -> None:
    table = Loading()
    table.know("a")
    assert table.versions.begin("a", beside=None, room="evict") == ("a",)
    assert table.versions.claim("a", "hidden") is None, "not installed yet"
    table.versions.install("a", 7, 3, 0.5)
    assert table.versions.claim("a", "in_service") is None
    assert table.versions.claim("a", "hidden") == (7,)
    table.versions.unclaim("a")
    table.versions.ready("a")
    assert table.versions.claim("a", "in_service") == (7,)


def test_a_failed_load_leaves_nothing_resident() -> None:
    table = Loading()
    table.know("a")
    table.know("b", ["a"])
    table.versions.lease("b")
    assert table.versions.begin("b", beside=None, room="evict") == ("a", "b")
    table.versions.install("a", 7, 3, 0.5)
    table.versions.abort(["a", "b"])
    table.versions.fail("b", FAILURE)
    assert table.states() == {"b": "FAILED"}
    assert table.versions.used_bytes == 0
    assert table.versions.take_freed() == [Freed(7, "task-a", "a", "unload")]
    table.versions.retry("b")
    assert table.versions.state("b") is State.COLD
    table.versions.unlease("b")
    assert table.versions.known == {}


def test_measured_bytes_replace_the_file_size() -> None:
    table = Loading()
    table.add("a", "b")
    table.know("c", nbytes=4)
    assert table.versions.begin("c", beside=None, room="evict") == ("c",)
    assert table.versions.measure("c", 12, None)
    assert table.states()["a"] == "COLD", "it had to go for the rest"
    table.versions.lease("b")
    assert not table.versions.measure("c", 25, None), "b is in use"
    table.versions.lease("c")
    table.versions.abort(["c"])
    assert table.versions.known["c"].nbytes == 25, "known from now on"
    table.versions.unlease("b")
    assert table.versions.begin("c", beside=None, room="evict") == ("c",)
    with pytest.raises(OutOfMemoryBudget):
        table.versions.measure("c", 31, None)


def test_a_guessed_size_does_not_refuse() -> None:
    table = Loading(budget=20)
    table.add("a1")
    table.versions.know(Known(VersionFacts("a2", "task-a", (), 999), MANIFEST))
    assert table.versions.begin("a2", beside="a1", room="free") is None
    assert table.versions.begin("a2", beside="a1", room="evict") == ("a2",)
    assert table.versions.used_bytes == 20, "all that can be had is reserved"
    assert table.versions.measure("a2", 9, "a1")
    with pytest.raises(OutOfMemoryBudget):
        table.versions.measure("a2", 11, "a1")


def test_the_guesses_of_a_chain_do_not_refuse_it() -> None:
    table = Loading(budget=20)
    for name, ancestors in (("a", ()), ("b", ("a",))):
        table.versions.know(Known(VersionFacts(name, name, ancestors, 999), MANIFEST))
    assert table.versions.begin("b", beside=None, room="evict") == ("a", "b")
    assert table.versions.measure("a", 12, None), "the other may turn out small"
    assert table.versions.used_bytes == 20
    assert table.versions.measure("b", 8, None)
    with pytest.raises(OutOfMemoryBudget):
        table.versions.measure("b", 9, None)


def test_what_is_always_in_use_yields_to_one_that_waited() -> None:
    table = Loading()
    table.add("a", "b", "c")
    for name in "abc":
        table.versions.lease(name)
        table.versions.claim(name, "in_service")
    table.know("d")
    assert table.load("d") is None
    table.versions.yield_for("d", None)
    assert table.versions.claim("a", "in_service") is None, "resident longest: no new rows"
    assert table.versions.claim("b", "in_service") is not None
    assert table.load("d") is None, "a's row still runs"
    table.versions.unclaim("a")
    assert table.load("d") == ("d",)
    assert table.versions.known["a"].leases == 1
    assert table.states() == {"a": "COLD", "b": "READY", "c": "READY", "d": "READY"}
    table.versions.yield_for("a", None)
    assert table.versions.known["b"].is_yielding
    table.versions.unyield()
    assert not table.versions.known["b"].is_yielding


@pytest.mark.parametrize("how", ["READY", "DRAINING"])
def test_a_resident_version_cannot_fail(how: str) -> None:
    table = Loading()
    table.add("a")
    table.versions.lease("a")
    if how == "DRAINING":
        table.versions.serve("a", "task-a")
        table.versions.retire("a", "task-a", "replaced")
    table.versions.fail("a", FAILURE)
    assert table.states() == {"a": how}
    assert table.versions.revive("a")
    assert table.states() == {"a": "READY"}
    assert not table.versions.revive("b")


def test_a_version_that_two_tasks_serve_goes_with_the_second() -> None:
    table = Loading()
    table.add("a")
    table.versions.serve("a", "copy")
    table.versions.retire("a", "task-a", "replaced")
    assert table.states() == {"a": "READY"}
    table.versions.retire("a", "copy", "unload")
    assert table.states() == {}
    assert table.versions.take_freed() == [Freed(101, "task-a", "a", "unload")]


@pytest.mark.parametrize("is_transitive", [True, False], ids=["all before", "the one before"])
def test_the_closure_of_a_long_chain(is_transitive: bool) -> None:
    """2^64 steps, or 3000 nested calls, would not come to an end."""
    names = [f"v{i}" for i in range(64 if is_transitive else 3000)]
    table = Loading(budget=10**9)
    for i, name in enumerate(names):
        table.know(name, names[:i] if is_transitive else names[max(0, i - 1) : i])
    assert closure(table.versions.known, [names[-1]]) == tuple(names)


def test_the_closure_of_a_cycle_ends() -> None:
    table = Loading()
    table.know("a", ["b"])
    table.know("b", ["a"])
    assert set(closure(table.versions.known, ["a"])) == {"a", "b"}


def test_what_holds_nothing_takes_new_facts_and_what_is_resident_keeps_its_own() -> None:
    table = Loading()
    table.add("a")
    table.know("b")
    table.versions.lease("b")
    table.versions.know(Known(VersionFacts("b", "task-x", ("a",), 7), MANIFEST))
    assert [v.digest for v in table.versions.of_task("task-x")] == ["b"]
    assert table.versions.of_task("task-b") == ()
    assert table.load("b") == ("b",)
    assert table.versions.claim("b", "in_service") == (101, 102)
    table.versions.know(Known(VersionFacts("b", "task-x", (), 7), MANIFEST))
    assert table.versions.known["b"].facts.ancestors == ("a",)


def test_an_ancestor_that_is_not_known_leaves_nothing_half_done() -> None:
    table = Loading()
    table.know("b", ["a"])
    with pytest.raises(KeyError):
        table.versions.begin("b", beside=None, room="evict")
    assert table.states() == {"b": "COLD"}
