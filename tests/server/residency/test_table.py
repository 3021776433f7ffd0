"""What a change of the table asks of the loader."""

from __future__ import annotations

import pytest

from factories import random_adapter
from jumplora_adapters.routing import Routing, Staged
from jumplora_server.residency.entries import CanaryReply, Known, Leased, Replay, VersionFacts
from jumplora_server.residency.setback import Waits
from jumplora_server.residency.table import Table
from small_server import BACKBONE

ONE, OTHER = "a" * 64, "b" * 64


def known(task: str, digest: str) -> Known:
    manifest, _ = random_adapter(BACKBONE, task=task)
    return Known(VersionFacts(digest, task, (), 10), manifest)


def test_room_is_told_of_where_a_load_found_none() -> None:
    table = Table(10, Waits())
    for task, digest in (("one", ONE), ("other", OTHER)):
        table.observe(task, digest, (digest,))
    assert isinstance(table.acquire("one", 0.0, known("one", ONE)), Leased)
    assert table.begin([known("one", ONE)], ONE, "evict") == (ONE,)
    table.versions.install(ONE, 0, 1, 1.0)
    table.commit("one", ONE, (ONE,))
    table.take_orders()

    assert table.begin([known("other", OTHER)], OTHER, "evict") is None, "the first is leased"
    assert not table.take_orders().is_room_made
    table.release(ONE)
    assert table.take_orders().is_room_made
    table.acquire("one", 0.0)
    table.release(ONE)
    assert not table.take_orders().is_room_made, "no load has looked since"
    assert table.begin([known("other", OTHER)], OTHER, "evict") == (OTHER,)


def staged_table(share: float, canary_drop: float = 1.0) -> Table:
    """A task whose two versions are loaded; the other one is staged and not open yet."""
    table = Table(100, Waits(), canary_drop)
    staged = Staged(OTHER, share, "2026-11-28T00:00:00.000+00:00")
    table.observe("one", ONE, (ONE, OTHER), Routing(staged))
    for slot, digest in enumerate((ONE, OTHER)):
        if digest == OTHER:
            table.expect_staged("one", known("one", OTHER))
        assert table.begin([known("one", digest)], digest, "evict") == (digest,)
        table.versions.install(digest, slot, 1, 1.0)
        table.commit("one", digest, (digest,))
        if digest == ONE:
            table.flip("one", ONE)
    return table


def ask(table: Table, spec: str = "one") -> Leased:
    found = table.acquire(spec, 0.0)
    assert isinstance(found, Leased)
    table.release(found.ref.version)
    return found


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 1 / 3, 0.5, 0.99, 1.0])
def test_a_share_holds_over_any_hundred_requests(share: float) -> None:
    table = staged_table(share)
    assert table.open("one", OTHER) is None
    roles = [ask(table).role == "staged" for _ in range(1000)]
    windows = [sum(roles[at : at + 100]) for at in range(901)]
    assert max(abs(count - 100 * share) for count in windows) <= 2


def test_a_staged_version_that_is_not_open_gets_nothing() -> None:
    table = staged_table(1.0)
    assert {ask(table).ref.version for _ in range(10)} == {ONE}
    assert ask(table, "one@staged").ref.version == OTHER, "but by name"


def test_who_names_a_version_takes_no_turn() -> None:
    table = staged_table(0.5)
    table.open("one", OTHER)
    roles = []
    for _ in range(20):
        assert ask(table, "one@current").role == "current"
        assert ask(table, f"one@{OTHER}").role == "staged"
        roles.append(ask(table).role)
    assert roles.count("staged") == 10


def test_while_a_staged_version_is_out_of_memory_the_current_one_answers() -> None:
    table = staged_table(1.0)
    table.open("one", OTHER)
    assert table.begin([known("two", "c" * 64)], "c" * 64, "evict") is not None
    table.versions.abort_all()
    assert ask(table).role == "staged"
    table.versions.budget_bytes = 25
    big = Known(VersionFacts("d" * 64, "two", (), 15), known("two", "d" * 64).manifest)
    table.versions.lease(ONE)
    assert table.begin([big], "d" * 64, "evict") == ("d" * 64,)
    table.release(ONE)
    table.take_orders()
    assert ask(table).role == "current"
    assert table.take_orders().fetch == [OTHER], "it is brought back"


@pytest.mark.parametrize(
    ("right", "is_refused"),
    [pytest.param(8, False, id="as good"), pytest.param(7, True, id="worse")],
)
def test_a_staged_versions_canaries_are_compared(right: int, is_refused: bool) -> None:
    table = staged_table(1.0, canary_drop=0.1)
    for digest, count in ((ONE, 9), (OTHER, right)):
        replies = tuple(CanaryReply("x", number < count) for number in range(10))
        table.versions.passed(digest, Replay(replies))
    failure = table.open("one", OTHER)
    assert (failure is not None) == is_refused
    assert ask(table).role == ("current" if is_refused else "staged")
    if failure is not None:
        assert failure.code == "canary"
        assert "0.7 of its canaries" in failure.message
