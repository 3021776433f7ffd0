"""What a change of the table asks of the loader."""

from __future__ import annotations

from factories import random_adapter
from jumplora_server.residency.entries import Known, Leased, VersionFacts
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
