"""Staged versions with a real store and the fake engine: who answers, and what it takes first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from jumplora_adapters.manifest import Canary
from jumplora_server.errors import UnknownVersion
from jumplora_server.residency.entries import State
from small_server import SmallServer, wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SmallServer]:
    """A running server with an empty store and room for ten adapters."""
    with SmallServer(tmp_path) as server:
        yield server


def with_two(server: SmallServer) -> tuple[str, str]:
    """The current version of a task, which is served, and an older one."""
    older = server.publish("a", seed=1)
    current = server.publish("a", seed=0)
    server.settle("a")
    return current, older


def texts(server: SmallServer, spec: str = "a", count: int = 10) -> Counter[str]:
    return Counter(server.generate(spec) for _ in range(count))


def test_a_staged_version_gets_its_share(server: SmallServer) -> None:
    current, other = with_two(server)
    server.store.stage("a", other, 0.3)
    server.settle("a")
    assert texts(server) == {f"{current[:8]}:hi": 7, f"{other[:8]}:hi": 3}
    assert texts(server, "a@current") == {f"{current[:8]}:hi": 10}
    assert texts(server, f"a@{current[:8]}") == {f"{current[:8]}:hi": 10}
    assert texts(server, "a@staged") == {f"{other[:8]}:hi": 10}
    staged = server.residency.status("a").staged
    assert staged is not None
    assert (staged.version, staged.is_open, staged.state) == (other, True, State.READY)


def test_a_promotion_loads_nothing_and_goes_back(server: SmallServer) -> None:
    current, other = with_two(server)
    server.store.stage("a", other, 0.5)
    server.settle("a")
    loads = len(server.engine.packed)
    server.store.promote("a")
    server.settle("a")
    assert texts(server) == {f"{other[:8]}:hi": 10}
    assert server.residency.status("a").staged is None
    assert len(server.engine.packed) == loads
    with pytest.raises(UnknownVersion, match="no staged version"):
        server.generate("a@staged")
    wait_until(lambda: server.engine.resident_bytes == 100)
    server.store.rollback("a")
    server.settle("a")
    assert texts(server) == {f"{current[:8]}:hi": 10}


def test_what_is_taken_back_ends_its_requests(server: SmallServer) -> None:
    current, other = with_two(server)
    server.store.stage("a", other, 1.0)
    server.settle("a")
    with server.residency.acquire("a") as lease:
        assert lease.role == "staged"
        server.store.unstage("a", note="no good")
        server.settle("a")
        assert texts(server) == {f"{current[:8]}:hi": 10}
        assert server.submit(lease)[1].finish().text == f"{other[:8]}:hi"
    wait_until(lambda: server.engine.resident_bytes == 100)


def test_others_that_watch_the_store_follow_and_a_restart_does(tmp_path: Path) -> None:
    with SmallServer(tmp_path, watch_seconds=0.02) as server:
        current, other = with_two(server)
        server.store.stage("a", other, 0.5)
        wait_until(lambda: len(texts(server, count=2)) == 2)
        server.store.stage("a", other, 0.0)
        wait_until(lambda: texts(server, count=4) == {f"{current[:8]}:hi": 4})
        server.store.alias("a", "best", other)
        wait_until(lambda: server.residency.status("a").aliases == {"best": other})
        assert server.generate("a@best") == f"{other[:8]}:hi"
        server.store.stage("a", other, 0.5)
    with SmallServer(tmp_path) as again:
        wait_until(lambda: again.residency.settled)
        assert texts(again) == {f"{current[:8]}:hi": 5, f"{other[:8]}:hi": 5}
        assert again.generate("a@best") == f"{other[:8]}:hi"


CANARY = Canary(prompt="who", expected="me")


@pytest.mark.parametrize("cause", ["canary", "load"])
def test_what_fails_before_its_first_request_gets_none(server: SmallServer, cause: str) -> None:
    current = server.publish("a", seed=0)
    server.settle("a")
    other = server.publish("a", seed=1, canaries=(CANARY,) if cause == "canary" else ())
    if cause == "load":
        server.engine.nonfinite.add(other)
    server.store.rollback("a", current)
    server.store.stage("a", other, 1.0)
    server.settle("a")
    staged = server.residency.status("a").staged
    assert staged is not None
    assert staged.failure is not None
    assert (staged.is_open, staged.failure.code) == (
        False,
        "canary" if cause == "canary" else "nonfinite",
    )
    assert texts(server) == {f"{current[:8]}:hi": 10}
    assert not server.residency.status("a").degraded, "the task itself is well"


def test_a_routing_that_cannot_be_read_changes_nothing(server: SmallServer) -> None:
    current, other = with_two(server)
    server.store.stage("a", other, 0.5)
    server.settle("a")
    (server.store.root / "a" / "routing.json").write_text("{")
    server.settle("a")
    assert texts(server) == {f"{current[:8]}:hi": 5, f"{other[:8]}:hi": 5}
    assert not server.residency.status("a").degraded


def test_without_room_at_the_start_it_is_loaded_once_it_is_its_turn(tmp_path: Path) -> None:
    with SmallServer(tmp_path) as writer:
        current, other = with_two(writer)
        writer.store.stage("a", other, 0.5)
    with SmallServer(tmp_path, budget_bytes=2500) as server:
        server.engine.nbytes = lambda adapter: 1200
        server.publish("b")
        server.settle("a")
        server.settle("b")
        wait_until(lambda: server.residency.settled)
        wait_until(lambda: len(texts(server, count=2)) == 2)
        assert set(texts(server, count=4)) == {f"{current[:8]}:hi", f"{other[:8]}:hi"}
