"""Residency with a real store and the fake engine: routing, loading, evicting, removing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fakes import FakeEngine
from jumplora_server.core import FinishReason
from jumplora_server.errors import (
    AdapterUnavailable,
    Draining,
    UnknownTask,
    UnknownVersion,
)
from jumplora_server.residency.entries import State
from small_server import PATIENCE, SmallServer, wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SmallServer]:
    """A running server with an empty store and room for ten adapters."""
    with SmallServer(tmp_path) as server:
        yield server


def test_a_published_task_answers(server: SmallServer) -> None:
    digest = server.publish("agnews")
    server.settle("agnews")
    assert server.generate("agnews") == f"{digest[:8]}:hi"
    status = server.residency.status("agnews")
    assert (status.version, status.state, status.desired) == (digest, State.READY, digest)
    assert (status.bytes_host, status.bytes_device, status.nonzeros) == (100, 0, 3)
    assert status.bytes_disk == server.store.path_of(digest).stat().st_size
    assert status.history == (digest,)
    assert status.in_flight == 0
    assert not status.degraded
    assert server.metric("jumplora_adapter_loads_total", task_id="agnews") == 1


def test_an_unknown_task_names_the_closest(server: SmallServer) -> None:
    server.publish("agnews")
    server.settle("agnews")
    with pytest.raises(UnknownTask, match="closest: agnews"):
        server.residency.acquire("agnew")
    with pytest.raises(UnknownTask):
        server.residency.sync("dbpedia").result(PATIENCE)
    with pytest.raises(UnknownTask):
        server.residency.pin("dbpedia", "pinned")


def test_the_store_is_watched(tmp_path: Path) -> None:
    with SmallServer(tmp_path, watch_seconds=0.01) as server:
        digest = server.publish("agnews")
        wait_until(lambda: bool(list(server.residency.each_status())))
        wait_until(lambda: server.residency.status("agnews").version == digest)
        server.store.remove("agnews")
        wait_until(lambda: not list(server.residency.each_status()))
        wait_until(lambda: not server.engine.slots)


def test_running_sequences_end_on_their_version(server: SmallServer) -> None:
    old = server.publish("agnews", seed=0)
    server.settle("agnews")
    lease = server.residency.acquire("agnews")
    new = server.publish("agnews", seed=1)
    server.settle("agnews")
    assert server.generate("agnews") == f"{new[:8]}:hi"
    assert server.residency.status("agnews").bytes_host == 200, "both versions are resident"
    with lease:
        assert server.submit(lease)[1].finish().text == f"{old[:8]}:hi"
    wait_until(lambda: server.engine.resident_bytes == 100)
    assert server.metric("jumplora_adapter_swaps_total", task_id="agnews") == 1


def test_an_old_version_can_be_named(server: SmallServer) -> None:
    old = server.publish("agnews", seed=0)
    server.settle("agnews")
    new = server.publish("agnews", seed=1)
    server.settle("agnews")
    assert server.generate(f"agnews@{old}") == f"{old[:8]}:hi"
    assert server.generate(f"agnews@{new[:10]}") == f"{new[:8]}:hi"
    with pytest.raises(UnknownVersion):
        server.residency.acquire("agnews@00000000")
    server.store.remove_version("agnews", old)
    server.settle("agnews")
    with pytest.raises(UnknownVersion):
        server.residency.acquire(f"agnews@{old}")
    wait_until(lambda: len(server.engine.slots) == 1)


def test_a_version_that_only_the_store_knows_of_can_be_named(server: SmallServer) -> None:
    first = server.publish("agnews", seed=0)
    server.settle("agnews")
    second = server.publish("agnews", seed=1)
    server.store.rollback("agnews")
    assert server.generate(f"agnews@{second}") == f"{second[:8]}:hi"
    assert server.generate("agnews") == f"{first[:8]}:hi"


def test_a_rollback_returns_at_once_to_what_still_drains(server: SmallServer) -> None:
    first = server.publish("agnews", seed=0)
    server.settle("agnews")
    with server.residency.acquire("agnews"):
        server.publish("agnews", seed=1)
        server.settle("agnews")
        server.store.rollback("agnews")
        server.settle("agnews")
    assert server.generate("agnews") == f"{first[:8]}:hi"
    assert server.engine.packed.count(first) == 1, "it was not loaded again"
    assert server.metric("jumplora_adapter_rollbacks_total", task_id="agnews") == 1


def test_a_lineage_is_applied_in_order_and_shared(server: SmallServer) -> None:
    first = server.publish("one")
    second = server.publish("two", lineage=[first])
    third = server.publish("three", lineage=[first, second])
    for task in ("three", "one", "two"):
        server.settle(task)
    assert server.generate("three") == f"{first[:8]}+{second[:8]}+{third[:8]}:hi"
    assert server.generate("two") == f"{first[:8]}+{second[:8]}:hi"
    assert sorted(server.engine.packed) == sorted([first, second, third])


def test_publishes_during_a_load_come_to_one_more(server: SmallServer) -> None:
    server.publish("agnews", seed=0)
    with server.engine.packs_held() as gate:
        futures = [server.residency.sync("agnews")]
        gate.wait_for_someone()
        for seed in range(1, 5):
            last = server.publish("agnews", seed=seed)
            futures.append(server.residency.sync("agnews"))
    statuses = [future.result(PATIENCE) for future in futures]
    assert {status.version for status in statuses[1:]} == {last}
    assert len(server.engine.packed) == 2


def test_requests_go_on_while_another_task_loads(server: SmallServer) -> None:
    server.publish("warm")
    server.settle("warm")
    cold = server.publish("cold")
    with server.engine.packs_held() as gate:
        loading = server.residency.sync("cold")
        gate.wait_for_someone()
        assert server.residency.status("cold").state is State.LOADING
        assert server.generate("warm").endswith(":hi")
    loading.result(PATIENCE)
    assert server.generate("cold") == f"{cold[:8]}:hi"


def fill(server: SmallServer, *tasks: str) -> dict[str, str]:
    """Publish and load one version of each task."""
    digests = {}
    for task in tasks:
        digests[task] = server.publish(task)
        server.settle(task)
    return digests


def test_a_cold_task_is_loaded_on_demand_and_the_least_used_one_goes(tmp_path: Path) -> None:
    with SmallServer(tmp_path, budget_bytes=2000) as server:
        server.engine.nbytes = lambda adapter: 900
        digests = fill(server, "a", "b")
        for task in ("a", "c", "b", "a"):
            digests[task] = server.store.current(task) if task != "c" else fill(server, "c")["c"]
            assert server.generate(task) == f"{digests[task][:8]}:hi"
        assert server.engine.peak_bytes == 1800, "never more than the budget"
        assert [server.residency.status(t).state for t in "abc"] == ["READY", "READY", "COLD"]
        assert server.metric("jumplora_adapter_evictions_total", task_id="b", reason="lru") == 1


def test_a_cold_sequence_may_time_out_or_be_cancelled(tmp_path: Path) -> None:
    with SmallServer(tmp_path, budget_bytes=2000) as server:
        server.engine.nbytes = lambda adapter: 1800
        fill(server, "a", "b")
        assert server.residency.status("a").state is State.COLD
        with server.engine.packs_held() as gate:
            sequence_id, cancelled = server.submit("a")
            gate.wait_for_someone()
            late = server.submit("a", deadline=time.monotonic() + 0.01)[1]
            assert late.finish().reason is FinishReason.TIMEOUT
            server.loop.cancel(sequence_id)
            assert cancelled.finish().reason is FinishReason.CANCELLED
            assert server.residency.status("a").in_flight == 0


def test_always_busy_tasks_take_turns_when_they_do_not_fit(tmp_path: Path) -> None:
    """No lease ever reaches zero on its own: without yielding, b would wait for ever."""
    with SmallServer(tmp_path, budget_bytes=2000) as server:
        server.engine.nbytes = lambda adapter: 1800
        digests = fill(server, "a", "b")
        with server.residency.acquire("a") as a, server.residency.acquire("b") as b:
            for _ in range(2):
                for task, lease in (("a", a), ("b", b)):
                    text = server.submit(lease)[1].finish().text
                    assert text == f"{digests[task][:8]}:hi"
        assert server.engine.peak_bytes == 1800, "never both"


def test_a_file_larger_than_the_budget_may_still_fit(tmp_path: Path) -> None:
    with SmallServer(tmp_path, budget_bytes=150) as server:
        digest = server.publish("a")
        assert server.store.path_of(digest).stat().st_size > 150
        server.settle("a")
        assert server.generate("a") == f"{digest[:8]}:hi"


def test_pinned_tasks_stay(tmp_path: Path) -> None:
    with SmallServer(tmp_path, budget_bytes=2000) as server:
        server.engine.nbytes = lambda adapter: 900
        fill(server, "a", "b")
        server.residency.pin("a", "pinned")
        assert server.residency.status("a").pinned
        fill(server, "c")
        assert [server.residency.status(t).state for t in "abc"] == ["READY", "COLD", "READY"]
        server.engine.nbytes = lambda adapter: 1101
        server.publish("d")
        failure = server.residency.sync("d").result(PATIENCE).failure
        assert failure is not None
        assert failure.code == "memory_budget"


def test_the_start_loads_what_fits(tmp_path: Path) -> None:
    with SmallServer(tmp_path) as writer:
        for task in "abc":
            writer.publish(task)
    engine = FakeEngine()
    engine.nbytes = lambda adapter: 1900
    with SmallServer(tmp_path, engine=engine, budget_bytes=4000) as server:
        wait_until(lambda: server.residency.settled)
        states = sorted(status.state for status in server.residency.each_status())
        assert states == ["COLD", "READY", "READY"]
        assert len(engine.slots) == 2
        assert server.has_threads
        for task in "abc":
            assert server.generate(task).endswith(":hi"), "the cold one comes on demand"


def test_requests_before_the_start_is_through_wait(tmp_path: Path) -> None:
    with SmallServer(tmp_path) as writer:
        digest = writer.publish("a")
    engine = FakeEngine()
    with ExitStack() as stack:
        with engine.packs_held() as gate:
            server = stack.enter_context(SmallServer(tmp_path, engine=engine))
            gate.wait_for_someone()
            assert not server.residency.settled
            answer = server.submit("a")[1]
            assert not answer.is_ended
        assert answer.finish().text == f"{digest[:8]}:hi"


def test_forget_drains_then_frees(server: SmallServer) -> None:
    digest = server.publish("a")
    server.settle("a")
    lease = server.residency.acquire("a")
    server.store.remove("a")
    server.residency.forget("a")
    with pytest.raises(UnknownTask):
        server.residency.acquire("a")
    with pytest.raises(UnknownTask):
        server.residency.status("a")
    with lease:
        assert server.submit(lease)[1].finish().text == f"{digest[:8]}:hi"
    wait_until(lambda: not server.engine.slots)
    wait_until(lambda: server.metric("jumplora_adapter_loads_total", task_id="a") == 0)


def test_a_forgotten_task_may_come_back_while_it_drains(server: SmallServer) -> None:
    digest = server.publish("a")
    server.settle("a")
    with server.residency.acquire("a"):
        server.store.remove("a")
        server.residency.forget("a")
        assert server.publish("a") == digest
        server.settle("a")
    assert server.generate("a") == f"{digest[:8]}:hi"
    assert server.engine.packed == [digest], "it was never gone"


def test_a_store_that_goes_away_removes_nothing(
    server: SmallServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.publish("a")
    server.settle("a")
    server.store.root.rename(server.folder / "elsewhere")
    with pytest.raises(AdapterUnavailable, match="is not there"):
        server.residency.sync("a").result(PATIENCE)
    server.residency.notify()
    wait_until(lambda: "the store cannot be read" in caplog.text)
    assert server.generate("a").endswith(":hi")
    (server.folder / "elsewhere").rename(server.store.root)


def test_a_stopped_residency_answers_no_more(tmp_path: Path) -> None:
    server = SmallServer(tmp_path)
    with server:
        server.publish("a")
        server.settle("a")
    assert not server.has_threads
    with pytest.raises(Draining):
        server.residency.sync("a").result(PATIENCE)


def test_stopping_answers_who_waits_for_a_load(tmp_path: Path) -> None:
    server = SmallServer(tmp_path)
    with server:
        server.publish("a")
        server.publish("b")
        with server.engine.packs_held() as gate:
            first = server.residency.sync("a")
            gate.wait_for_someone()
            second = server.residency.sync("b")
            stopper = threading.Thread(target=server.stop)
            stopper.start()
            with pytest.raises(Draining):
                second.result(PATIENCE)
        stopper.join()
        failure = first.result(PATIENCE).failure
        assert failure is not None
        assert failure.code == "draining"
