"""What failed heals by itself when its cause goes away, and concerns nobody else until then."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from factories import random_adapter
from fakes import FakeEngine
from jumplora_adapters.errors import StoreError
from jumplora_adapters.format import write_adapter
from jumplora_server.errors import AdapterUnavailable, UnknownTask
from jumplora_server.residency.entries import MAX_FALLBACKS, State
from jumplora_server.residency.setback import Waits
from jumplora_server.residency.status import TaskStatus
from small_server import BACKBONE, PATIENCE, SmallServer, wait_until

NEVER = Waits(first=3600.0, longest=3600.0)  # by the clock: a changed file is to be noticed
SOON = Waits(first=0.02, longest=0.05)


def code_of(status: TaskStatus) -> str | None:
    return None if status.failure is None else status.failure.code


def folder_of(server: SmallServer, task: str) -> Path:
    return server.store.root / task


def failing(server: SmallServer, task: str, code: str) -> None:
    wait_until(lambda: code_of(server.residency.status(task)) == code)


def served(server: SmallServer, task: str, digest: str) -> None:
    """Wait until a version answers and nothing is wrong."""

    def is_served() -> bool:
        found = [s for s in server.residency.each_status() if s.task_id == task]
        return bool(found) and found[0].version == digest and found[0].failure is None

    server.residency.notify()
    wait_until(is_served)
    assert server.generate(task) == f"{digest[:8]}:hi"


def incomplete(path: Path, how: str) -> None:
    """What a copy that is under way, or went wrong, leaves."""
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "half":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "damaged":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif how == "link":
        aside = path.with_name("aside")
        path.rename(aside)
        path.symlink_to(aside)
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "pipe":
        path.unlink()
        os.mkfifo(path)


HOW = ["missing", "half", "empty", "damaged", "link", "folder", "pipe"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("is_served", [False, True], ids=["new", "update"])
def test_a_version_whose_file_is_completed_is_served(
    tmp_path: Path, how: str, is_served: bool
) -> None:
    with SmallServer(tmp_path, watch_seconds=0.01, waits=NEVER) as server:
        old = server.publish("a", seed=0) if is_served else None
        if old is not None:
            served(server, "a", old)
        # As cp does: a part of the file, the pointer, at last the whole file.
        new = write(server, "a", seed=1)
        whole = (server.folder / "a-new.safetensors").read_bytes()
        path = folder_of(server, "a") / f"{new}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(whole)
        incomplete(path, how)
        point(server, "a", new)
        wait_until(lambda: "a" in {s.task_id for s in server.residency.each_status()})
        wait_until(lambda: server.residency.status("a").failure is not None)
        status = server.residency.status("a")
        assert (status.desired, status.version, status.degraded) == (new, old, True)
        assert status.retry_in is not None
        assert status.retry_in > 60
        if old is not None:
            assert server.generate("a") == f"{old[:8]}:hi"
        replace(path, whole)
        served(server, "a", new)


@pytest.mark.parametrize("how", HOW)
def test_an_ancestor_that_is_completed_heals_its_descendant(tmp_path: Path, how: str) -> None:
    with SmallServer(tmp_path, watch_seconds=0.01, waits=NEVER) as server:
        first = server.publish("one")
        path = server.store.path_of(first)
        whole = path.read_bytes()
        digest = server.publish("two", lineage=[first])
        wait_until(lambda: server.residency.settled)
        served_before = server.residency.sync("two").result(PATIENCE)
        assert served_before.version == digest
    incomplete(path, how)
    with SmallServer(tmp_path, watch_seconds=0.01, waits=NEVER) as server:
        wait_until(lambda: server.residency.settled)
        assert server.residency.status("two").state is State.FAILED
        with pytest.raises(AdapterUnavailable):
            server.generate("two")
        replace(path, whole)
        wait_until(lambda: server.residency.status("two").state is State.READY)
        assert server.generate("two") == f"{first[:8]}+{digest[:8]}:hi"
        served(server, "one", first)


@pytest.mark.parametrize(
    "cause",
    [MemoryError(), OSError(5, "I/O error"), OSError(116, "Stale file handle"), ValueError()],
    ids=["memory", "EIO", "ESTALE", "bug"],
)
def test_a_cause_that_leaves_no_trace_is_tried_again_by_the_clock(
    tmp_path: Path, cause: Exception
) -> None:
    engine = FakeEngine()
    engine.fail_pack = lambda digest: cause
    with SmallServer(tmp_path, engine=engine, waits=SOON) as server:
        digest = server.publish("a")
        server.settle("a")
        assert server.residency.status("a").state is State.FAILED
        engine.fail_pack = lambda digest: None
        served(server, "a", digest)


def test_one_that_fails_for_ever_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with SmallServer(tmp_path, waits=SOON) as server:
        digest = server.publish("a")
        incomplete(server.store.path_of(digest), "damaged")
        server.settle("a")
        failures = "jumplora_adapter_load_failures_total"
        wait_until(lambda: server.metric(failures, task_id="a", code="digest") > 4)
    lines = [r for r in caplog.records if r.levelno >= logging.WARNING and digest[:12] in r.message]
    assert len(lines) == 1


def test_what_the_budget_refused_is_tried_when_room_is_made(tmp_path: Path) -> None:
    with SmallServer(tmp_path, budget_bytes=150, waits=NEVER) as server:
        first = server.publish("a")
        served(server, "a", first)
        server.residency.pin("a", "pinned")
        second = server.publish("b")
        server.settle("b")
        assert code_of(server.residency.status("b")) == "memory_budget"
        server.residency.pin("a", "unpinned")
        served(server, "b", second)


# What is made at a path, in the place of a pointer.
ODD_POINTERS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"rubbish\n"),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "folder": Path.mkdir,
    "link": lambda path: os.symlink("elsewhere", path),
    "pipe": os.mkfifo,
    "gone": lambda path: None,
}


def spoil_pointer(server: SmallServer, task: str, how: str) -> None:
    """Put something odd in a pointer's place, and wait until that is noticed."""
    path = folder_of(server, task) / "current"
    if how in ("gone", "folder"):
        path.unlink()
        failing(server, task, "no_pointer")
        wait_until(lambda: server.metric("jumplora_adapter_degraded", task_id=task) == 1)
    if how == "folder":  # cannot take a file's place at once, as the others do
        path.mkdir()
    elif how != "gone":
        made = path.with_name(".tmp-test")
        ODD_POINTERS[how](made)
        made.rename(path)
    failing(server, task, "no_pointer" if how == "gone" else "store")
    wait_until(lambda: server.metric("jumplora_adapter_degraded", task_id=task) == 1)


@pytest.mark.parametrize("how", ODD_POINTERS)
def test_an_odd_pointer_concerns_its_task_alone_and_heals(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    with SmallServer(tmp_path, watch_seconds=0.01, waits=SOON) as server:
        first, other = server.publish("a"), server.publish("b")
        served(server, "a", first)
        served(server, "b", other)
        path = folder_of(server, "a") / "current"
        spoil_pointer(server, "a", how)
        assert server.residency.status("a").degraded
        assert server.generate("a") == f"{first[:8]}:hi", "what is served goes on serving"
        newer = server.publish("b", seed=1)
        served(server, "b", newer)
        said = sum("cannot read what a should serve" in r.message for r in caplog.records)
        assert said == (2 if how == "folder" else 1), "once for each state of the pointer"
        if path.is_dir():
            path.rmdir()
        replace(path, f"{first}\n".encode())
        served(server, "a", first)
        wait_until(lambda: server.metric("jumplora_adapter_degraded", task_id="a") == 0)


@pytest.mark.parametrize("how", [how for how in ODD_POINTERS if how != "gone"])
def test_a_start_with_an_odd_pointer(tmp_path: Path, how: str) -> None:
    with SmallServer(tmp_path) as writer:
        first, other = writer.publish("a"), writer.publish("b")
    path = folder_of(writer, "a") / "current"
    path.unlink()
    ODD_POINTERS[how](path)
    with SmallServer(tmp_path, watch_seconds=0.01) as server:
        served(server, "b", other)
        failing(server, "a", "store")
        status = server.residency.status("a")
        assert (status.desired, status.version, status.state) == (None, None, State.FAILED)
        with pytest.raises(AdapterUnavailable):
            server.generate("a")
        if path.is_dir():
            path.rmdir()
        replace(path, f"{first}\n".encode())
        served(server, "a", first)


def test_a_folder_without_a_pointer_is_a_publish_under_way(tmp_path: Path) -> None:
    with SmallServer(tmp_path, watch_seconds=0.01) as server:
        digest = write(server, "a")
        folder_of(server, "a").mkdir()
        path = folder_of(server, "a") / f"{digest}.safetensors"
        path.write_bytes((server.folder / "a-new.safetensors").read_bytes())
        served(server, "b", server.publish("b"))
        with pytest.raises(UnknownTask):
            server.residency.status("a")
        point(server, "a", digest)
        wait_until(lambda: "a" in {s.task_id for s in server.residency.each_status()})
        served(server, "a", digest)


def test_a_store_that_is_emptied_is_a_fault_and_one_that_is_marked_a_wish(tmp_path: Path) -> None:
    with SmallServer(tmp_path, watch_seconds=0.01) as server:
        digest = server.publish("a")
        served(server, "a", digest)
        root, aside = server.store.root, tmp_path / "aside"
        root.rename(aside)
        root.mkdir()
        wait_until(lambda: server.residency.store_fault is not None)
        assert server.generate("a") == f"{digest[:8]}:hi"
        root.rmdir()
        wait_until(lambda: "not" in (server.residency.store_fault or ""))
        aside.rename(root)
        wait_until(lambda: server.residency.store_fault is None)
        assert server.generate("a") == f"{digest[:8]}:hi"
        shutil.rmtree(root / "a")
        wait_until(lambda: not list(server.residency.each_status()))
        assert server.residency.store_fault is None


def test_a_copied_task_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    with SmallServer(tmp_path, watch_seconds=0.01, waits=SOON) as server:
        first = server.publish("a")
        served(server, "a", first)
        shutil.copytree(folder_of(server, "a"), folder_of(server, "copy"))
        wait_until(lambda: "copy" in {s.task_id for s in server.residency.each_status()})
        failing(server, "copy", "manifest")
        with pytest.raises(AdapterUnavailable, match="names task 'a', not 'copy'"):
            server.generate("copy")
        assert server.generate("a") == f"{first[:8]}:hi"
        own = server.publish("copy", seed=1)
        served(server, "copy", own)
        back = server.publish("a", seed=2)
        served(server, "a", back)
        shutil.rmtree(folder_of(server, "copy"))
        wait_until(lambda: [s.task_id for s in server.residency.each_status()] == ["a"])
        assert server.generate("a") == f"{back[:8]}:hi"


def test_an_update_that_names_another_task_leaves_what_is_served(tmp_path: Path) -> None:
    with SmallServer(tmp_path, watch_seconds=0.01, waits=SOON) as server:
        first, other = server.publish("a"), server.publish("b", seed=1)
        served(server, "a", first)
        served(server, "b", other)
        shutil.copy(server.store.path_of(other), folder_of(server, "a"))
        point(server, "a", other)
        failing(server, "a", "manifest")
        assert server.residency.status("a").version == first
        assert server.generate("a") == f"{first[:8]}:hi"
        assert server.generate("b") == f"{other[:8]}:hi"
        assert server.residency.status("b").failure is None


def test_of_two_copies_the_sound_one_is_read(tmp_path: Path) -> None:
    with SmallServer(tmp_path, waits=SOON) as server:
        first = server.publish("b")
        shutil.copytree(folder_of(server, "b"), folder_of(server, "a"))
        incomplete(folder_of(server, "a") / f"{first}.safetensors", "damaged")
        server.settle("b")
        served(server, "b", first)


def test_a_task_that_is_removed_while_its_version_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its sequences end with the failure; they do not order the version again and again."""
    with SmallServer(tmp_path, budget_bytes=150, waits=SOON) as server:
        for task in ("a", "b"):  # there is room for one
            served(server, task, server.publish(task))
        assert server.residency.status("a").state is State.COLD
        with server.engine.packs_held() as gate:
            _, answer = server.submit("a")
            gate.wait_for_someone()
            _, second = server.submit("b")  # its fetch waits behind that of a
            server.store.remove("b")
            server.residency.forget("b")
        assert answer.finish().error is None
        finish = second.finish()
        assert isinstance(finish.error, AdapterUnavailable)
    assert sum("does not load" in record.message for record in caplog.records) < 4


def test_a_request_overtakes_tasks_that_were_copied_into_the_store(tmp_path: Path) -> None:
    with SmallServer(tmp_path) as writer:
        digests = {f"t{i:03}": writer.publish(f"t{i:03}", seed=i) for i in range(30)}
    aside = tmp_path / "aside"
    writer.store.root.rename(aside)
    with SmallServer(tmp_path, watch_seconds=0.01) as server:
        with server.engine.packs_held() as gate:
            for task in digests:
                shutil.copytree(aside / task, server.store.root / task)
            gate.wait_for_someone()
            server.residency.notify()
            found = server.residency.look_for("t029")
            assert found is not None
        assert found.result(PATIENCE).version == digests["t029"]
        served(server, "t028", digests["t028"])
    assert server.engine.packed.index(digests["t029"]) < 5


def test_what_is_wrong_beside_a_sound_pointer_is_tried_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    with SmallServer(tmp_path, watch_seconds=0.01, waits=NEVER) as server:
        sound = server.store.history

        def history(task: str) -> object:
            if threading.current_thread() is threading.main_thread():
                return sound(task)  # of the publish below, which the watcher may see at once
            tries.append(task)
            raise StoreError("the folder cannot be listed")

        monkeypatch.setattr(server.store, "history", history)
        digest = server.publish("a")
        wait_until(lambda: bool(tries))
        wait_until(lambda: code_of(server.residency.status("a")) == "store")
        with pytest.raises(AdapterUnavailable):  # behind what the watcher asked for before that
            server.residency.sync("a").result(PATIENCE)
        before = len(tries)
        pause = threading.Event()
        for _ in range(10):
            server.residency.notify()
            pause.wait(0.02)
        assert len(tries) == before
        monkeypatch.undo()
        assert server.residency.sync("a").result(PATIENCE).version == digest


@pytest.mark.parametrize("ancestors", ["none", "one"])
def test_what_was_read_of_another_file_under_the_name_is_forgotten(
    tmp_path: Path, ancestors: str
) -> None:
    """The wrong file has another lineage, and a request meets it before the loader does."""
    with SmallServer(tmp_path) as writer:
        first = writer.publish("one")
        right = writer.publish("z", lineage=[first] if ancestors == "one" else [])
        wrong = writer.publish("z", seed=1, lineage=[] if ancestors == "one" else [first])
        point(writer, "z", right)
    path = folder_of(writer, "z") / f"{right}.safetensors"
    whole = path.read_bytes()
    replace(path, (folder_of(writer, "z") / f"{wrong}.safetensors").read_bytes())
    (folder_of(writer, "z") / f"{wrong}.safetensors").unlink()
    engine = FakeEngine()
    server = SmallServer(tmp_path, engine=engine, watch_seconds=0.01, waits=NEVER)
    with engine.packs_held() as gate:
        server.loop.start()
        server.residency.start()
        gate.wait_for_someone()  # with "one"
        _, answer = server.submit("z")
    with server_running(server):
        finish = answer.finish()
        assert isinstance(finish.error, AdapterUnavailable)
        assert finish.error.reason == "digest"
        replace(path, whole)
        served_chain = f"{first[:8]}+{right[:8]}:hi" if ancestors == "one" else f"{right[:8]}:hi"
        wait_until(lambda: server.residency.status("z").failure is None)
        assert server.generate("z") == served_chain
        assert server.has_threads


def test_a_long_history_of_bad_versions_is_not_tried_to_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with SmallServer(tmp_path) as writer:
        digests = [writer.publish("a", seed=seed) for seed in range(30)]
    for digest in digests:
        incomplete(writer.store.path_of(digest), "damaged")
    with SmallServer(tmp_path, waits=NEVER) as server:
        wait_until(lambda: server.residency.settled)
        assert server.residency.status("a").state is State.FAILED
        failures = "jumplora_adapter_load_failures_total"
        assert server.metric(failures, task_id="a", code="digest") == 1 + MAX_FALLBACKS
    assert sum("does not load" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("is_transitive", [True, False], ids=["all before", "the one before"])
def test_a_long_chain_loads(tmp_path: Path, is_transitive: bool) -> None:
    with SmallServer(tmp_path, budget_bytes=100_000) as server:
        chain: list[str] = []
        for seed in range(25):
            lineage = chain if is_transitive else chain[-1:]
            chain.append(server.publish(f"t{seed:02}", seed=seed, lineage=lineage))
        server.settle("t24")
        expected = chain if is_transitive else chain[-2:]
        text = server.submit("t24", max_new_tokens=256)[1].finish().text
        assert text == "+".join(d[:8] for d in expected) + ":hi"
        server.residency.pin("t24", "pinned")
        for task in ("x", "y"):
            server.publish(task)
            server.settle(task)


# Tools


@contextmanager
def server_running(server: SmallServer) -> Iterator[None]:
    """A server that was started by hand, stopped with all that it checks."""
    try:
        yield
    finally:
        server.__exit__(None, None, None)


def write(server: SmallServer, task: str, seed: int = 0) -> str:
    """A new version's file beside the store; returns its digest."""
    manifest, deltas = random_adapter(BACKBONE, task=task, seed=seed + 50)
    return write_adapter(server.folder / f"{task}-new.safetensors", manifest, deltas)


def point(server: SmallServer, task: str, digest: str) -> None:
    folder_of(server, task).mkdir(exist_ok=True)
    replace(folder_of(server, task) / "current", f"{digest}\n".encode())


def replace(path: Path, content: bytes) -> None:
    """Put a file in the place of whatever is there."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    temporary = path.with_name(".tmp-test")
    temporary.write_bytes(content)
    temporary.rename(path)
