"""What does not load: the old version goes on, the failure shows, also after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from fakes import FakeEngine
from jumplora_server.core import Batch, FinishReason
from jumplora_server.errors import AdapterUnavailable, ServerError, UnknownTask
from jumplora_server.residency.reader import StoreReader
from jumplora_server.residency.setback import Stamps, Waits
from jumplora_server.residency.status import State, TaskStatus
from small_server import PATIENCE, SmallServer, wait_until


def damage(server: SmallServer, digest: str, how: str) -> None:
    """Make one version fail to load, in one of the ways in which they do."""
    path, engine = server.store.path_of(digest), server.engine
    if how == "bit flipped":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:40])
    elif how == "file gone":
        path.unlink()
    elif how == "not packable":
        engine.fail_pack = lambda d: ValueError("odd") if d == digest else None
    elif how == "no memory":
        engine.fail_pack = lambda d: MemoryError() if d == digest else None
    elif how == "too large":
        engine.nbytes = lambda adapter: 10_001 if adapter.digest == digest else 100
    elif how == "not finite":
        engine.nonfinite.add(digest)
    elif how == "step raises":

        def fail(batch: Batch) -> Exception | None:
            refs = [sequence.encoding.ref for sequence in batch.decode]
            users = [ref for ref in refs if ref is not None and ref.version == digest]
            return RuntimeError("kernel") if users else None

        engine.fail_step = fail


HOW = [
    pytest.param("bit flipped", "digest", id="bit flipped"),
    pytest.param("truncated", "header", id="truncated"),
    pytest.param("file gone", "unknown_version", id="file gone"),
    pytest.param("not packable", "internal", id="not packable"),
    pytest.param("no memory", "out_of_memory", id="no memory"),
    pytest.param("too large", "memory_budget", id="too large"),
    pytest.param("not finite", "nonfinite", id="not finite"),
    pytest.param("step raises", "generation", id="step raises"),
]


def code_of(status: TaskStatus) -> str | None:
    return None if status.failure is None else status.failure.code


@pytest.mark.parametrize(("how", "code"), HOW)
def test_a_failed_load_keeps_the_old_version(tmp_path: Path, how: str, code: str) -> None:
    with SmallServer(tmp_path) as server:
        good = server.publish("a", seed=0)
        server.settle("a")
        bad = server.publish("a", seed=1)
        damage(server, bad, how)
        status = server.residency.sync("a").result(PATIENCE)
        assert (status.version, status.desired, status.state) == (good, bad, State.READY)
        assert status.degraded
        assert code_of(status) == code
        assert server.generate("a") == f"{good[:8]}:hi"
        assert server.engine.resident_bytes == 100, "nothing is left of the attempt"
        assert server.metric("jumplora_adapter_load_failures_total", task_id="a", code=code) == 1
        newest = server.publish("a", seed=2)
        status = server.residency.sync("a").result(PATIENCE)
        assert (status.version, status.degraded, status.failure) == (newest, False, None)


@pytest.mark.parametrize(("how", "code"), HOW)
def test_a_restart_falls_back_along_the_history(tmp_path: Path, how: str, code: str) -> None:
    with SmallServer(tmp_path) as writer:
        good = writer.publish("a", seed=0)
        worse, bad = writer.publish("a", seed=1), writer.publish("a", seed=2)
    server = SmallServer(tmp_path)
    damage(server, worse, "bit flipped")
    damage(server, bad, how)
    with server:
        wait_until(lambda: server.residency.settled)
        status = server.residency.status("a")
        assert (status.version, status.desired, status.state) == (good, bad, State.READY)
        assert code_of(status) == code
        assert server.generate("a") == f"{good[:8]}:hi"


@pytest.mark.parametrize(("how", "code"), HOW)
def test_a_task_of_which_nothing_loads(tmp_path: Path, how: str, code: str) -> None:
    with SmallServer(tmp_path) as writer:
        only = writer.publish("a")
        writer.publish("b")
    server = SmallServer(tmp_path)
    damage(server, only, how)
    with server:
        wait_until(lambda: server.residency.settled)
        status = server.residency.status("a")
        assert (status.version, status.state) == (None, State.FAILED)
        with pytest.raises(AdapterUnavailable) as caught:
            server.residency.acquire("a")
        assert caught.value.reason == code
        assert server.generate("b").endswith(":hi"), "others are not touched"


def test_loading_a_degraded_task_brings_back_what_it_served(tmp_path: Path) -> None:
    with SmallServer(tmp_path, budget_bytes=250) as server:
        good = server.publish("a", seed=0)
        server.settle("a")
        damage(server, server.publish("a", seed=1), "truncated")
        server.settle("a")
        for task in ("b", "c"):
            server.publish(task)
            server.settle(task)
        assert server.residency.status("a").state is State.COLD
        status = server.residency.load("a").result(PATIENCE)
        assert (status.version, status.state, status.degraded) == (good, State.READY, True)


def test_a_repaired_version_is_tried_again_on_demand(tmp_path: Path) -> None:
    with SmallServer(tmp_path) as server:
        good = server.publish("a", seed=0)
        server.settle("a")
        bad = server.publish("a", seed=1)
        content = server.store.path_of(bad).read_bytes()
        damage(server, bad, "truncated")
        server.settle("a")
        server.store.path_of(bad).write_bytes(content)
        assert server.generate("a") == f"{good[:8]}:hi", "not by itself"
        status = server.residency.load("a").result(PATIENCE)
        assert (status.version, status.degraded) == (bad, False)
        assert server.generate("a") == f"{bad[:8]}:hi"


def test_a_failed_task_is_tried_again_by_requests_after_a_while(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.fail_pack = lambda digest: MemoryError()
    with SmallServer(tmp_path, engine=engine, waits=Waits(0.0, 0.0)) as server:
        digest = server.publish("a")
        server.settle("a")
        assert server.residency.status("a").state is State.FAILED
        engine.fail_pack = lambda digest: None
        assert server.generate(f"a@{digest}") == f"{digest[:8]}:hi"
        server.settle("a")
        assert server.generate("a") == f"{digest[:8]}:hi"


def test_sequences_that_wait_for_a_failing_load_are_answered(tmp_path: Path) -> None:
    with SmallServer(tmp_path) as server:
        old = server.publish("a", seed=0)
        server.settle("a")
        server.publish("a", seed=1)
        server.settle("a")
        damage(server, old, "bit flipped")
        wait_until(lambda: len(server.engine.slots) == 1)
        finish = server.submit(f"a@{old}")[1].finish()
        assert finish.reason is FinishReason.ERROR
        assert isinstance(finish.error, AdapterUnavailable)
        assert finish.error.reason == "digest"
        assert server.generate("a").endswith(":hi")
        status = server.residency.status("a")
        assert not status.degraded, "the version that should serve does"


def test_an_evicted_version_whose_file_is_gone_falls_back(tmp_path: Path) -> None:
    with SmallServer(tmp_path, budget_bytes=250) as server:
        first = server.publish("a", seed=0)
        server.settle("a")
        second = server.publish("a", seed=1)
        server.settle("a")
        for task in ("b", "c"):
            server.publish(task)
            server.settle(task)
        assert server.residency.status("a").state is State.COLD
        damage(server, second, "file gone")
        with pytest.raises(ServerError):
            server.generate("a")
        wait_until(lambda: server.residency.status("a").version == first)
        assert server.generate("a") == f"{first[:8]}:hi"
        assert server.residency.status("a").degraded


@pytest.mark.parametrize("which", ["missing", "damaged"])
def test_a_lineage_needs_all_its_ancestors(tmp_path: Path, which: str) -> None:
    with SmallServer(tmp_path) as server:
        first = server.publish("one")
        server.publish("two", lineage=[first])
        damage(server, first, "file gone" if which == "missing" else "bit flipped")
        status = server.residency.sync("two").result(PATIENCE)
        assert code_of(status) == ("unknown_version" if which == "missing" else "digest")
        assert server.engine.slots == {}


def test_a_resident_version_needs_no_file_to_go_on(tmp_path: Path) -> None:
    with SmallServer(tmp_path) as server:
        good = server.publish("a", seed=0)
        server.settle("a")
        bad = server.publish("a", seed=1)
        for digest in (good, bad):
            damage(server, digest, "file gone")
        status = server.residency.sync("a").result(PATIENCE)
        assert (status.version, status.state, status.degraded) == (good, State.READY, True)
        assert server.generate("a") == f"{good[:8]}:hi"
        assert server.residency.healthy
        failures = "jumplora_adapter_load_failures_total"
        assert server.metric(failures, task_id="a", code="unknown_version") == 1, "one failed"
        newest = server.publish("a", seed=2)
        status = server.residency.sync("a").result(PATIENCE)
        assert (status.version, status.degraded) == (newest, False)
        assert server.generate("a") == f"{newest[:8]}:hi"


def test_a_task_that_is_forgotten_while_it_is_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamps = StoreReader.stamps
    with SmallServer(tmp_path) as server:
        server.publish("a")

        def stamps_and_remove(self: StoreReader, digests: list[str]) -> Stamps:
            monkeypatch.undo()
            server.store.remove("a")
            server.residency.forget("a")
            return stamps(self, digests)

        monkeypatch.setattr(StoreReader, "stamps", stamps_and_remove)
        with pytest.raises(UnknownTask):
            server.residency.sync("a").result(PATIENCE)
        assert server.residency.healthy
        digest = server.publish("a", seed=1)
        server.settle("a")
        assert server.generate("a") == f"{digest[:8]}:hi"


def test_the_loader_outlives_what_nobody_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with SmallServer(tmp_path) as server:
        digest = server.publish("a")

        def history(task: str) -> NoReturn:
            monkeypatch.undo()
            raise RuntimeError(f"odd {task}")

        monkeypatch.setattr(server.store, "history", history)
        with pytest.raises(AdapterUnavailable, match="odd a") as caught:
            server.residency.sync("a").result(PATIENCE)
        assert caught.value.reason == "internal"
        assert "Traceback" in caplog.text
        assert server.residency.healthy
        server.settle("a")
        assert server.generate("a") == f"{digest[:8]}:hi"
