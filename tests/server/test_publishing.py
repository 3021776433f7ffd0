"""The publish transaction: what it holds up, how long it waits, and that it is finished."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapter_requests import ADMIN, answer, files, put
from factories import toy_backbone, write_random_adapter
from held_lock import lock_held
from jumplora_adapters import store_files
from jumplora_adapters.errors import StoreBusy
from jumplora_adapters.incoming import Incoming
from jumplora_adapters.store import Step, Store
from jumplora_adapters.store_lock import Patience
from jumplora_server.errors import AdapterRefused
from jumplora_server.publishing import WRITES_AT_ONCE, Publishing
from jumplora_server.residency.entries import LoadFailure, State
from jumplora_server.residency.status import TaskStatus
from odd_entries import ENTRIES
from odd_entries import put as put_odd
from serving import Site, connected, make_site, wait_for

BACKBONE = toy_backbone()


def hurry(
    site: Site, seconds: float, *, disk_seconds: float = 60.0, store: Store | None = None
) -> None:
    """Let requests wait for the store that long."""
    services = site.parts.services
    publishing = Publishing(
        store or services.store,
        services.backbone,
        services.residency,
        load_seconds=20,
        wait_seconds=seconds,
        disk_seconds=disk_seconds,
    )
    object.__setattr__(services, "publishing", publishing)


def test_a_held_lock_holds_up_publishing_alone(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    hurry(site, 2.0)
    with connected(site, headers=ADMIN) as http, ThreadPoolExecutor(60) as pool:
        version = site.publish("kept")
        contents = [site.adapter("new").read_bytes() for _ in range(60)]
        before = files(site)
        with lock_held(site.parts.services.store.root):
            began = time.monotonic()
            url = str(http.base_url)
            puts = [pool.submit(_put_alone, url, content) for content in contents]
            wait_for(lambda: len(list(site.parts.services.store.root.glob(".tmp*"))) > 4)
            for _ in range(5):
                assert answer(http, "kept") == version
                for path in ("/livez", "/readyz", "/metrics", "/v1/adapters"):
                    assert http.get(path, timeout=2).status_code == 200
            answers = [waiting.result(timeout=30) for waiting in puts]
            assert time.monotonic() - began < 15  # four at a time, one after the other, take 30 s
        assert {response.status_code for response in answers} == {503}
        assert answers[0].json()["error_type"] == "store_busy"
        assert answers[0].headers["retry-after"] == "5"
        assert str(site.folder) not in answers[0].text
        wait_for(lambda: files(site) == before)
        assert put(http, "new", contents[0]).status_code == 201


def _put_alone(url: str, content: bytes) -> httpx.Response:
    with httpx.Client(base_url=url, headers=ADMIN, timeout=30) as http:
        return put(http, "new", content)


class HangingStore(Store):
    """Writes wait until the event is set, as on a share that went away."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.answers = threading.Event()

    def incoming(self) -> Incoming:
        """A file that is written when the store answers."""
        return HangingIncoming(self.root, self.max_file_bytes, self.answers)


class HangingIncoming(Incoming):
    """Hangs within a write, as one in a system call does."""

    def __init__(self, root: Path, max_file_bytes: int, answers: threading.Event) -> None:
        super().__init__(root, max_file_bytes)
        self._answers = answers

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        with self._working():
            assert self._answers.wait(30)
        super().write(chunk)


def test_writes_that_hang_are_answered_and_give_their_places_back(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    store = HangingStore(site.parts.services.store.root)
    hurry(site, 0.5, disk_seconds=0.5, store=store)
    with connected(site, headers=ADMIN) as http, ThreadPoolExecutor(WRITES_AT_ONCE + 2) as pool:
        version = site.publish("kept")
        before = files(site)
        content = site.adapter("new").read_bytes()
        url = str(http.base_url)
        try:
            began = time.monotonic()
            # Two of them wait for a place, which none of the others gives back.
            puts = [pool.submit(_put_alone, url, content) for _ in range(WRITES_AT_ONCE + 2)]
            refused = [waiting.result(timeout=20) for waiting in puts]
            assert time.monotonic() - began < 10
            for answered in refused:
                assert (answered.status_code, answered.json()["error_type"]) == (503, "store_busy")
                assert answered.headers["retry-after"] == "5"
            assert answer(http, "kept") == version
            for path in ("/livez", "/readyz", "/metrics", "/v1/adapters"):
                assert http.get(path, timeout=2).status_code == 200
        finally:
            store.answers.set()
        wait_for(lambda: files(site) == before)
        for _ in range(WRITES_AT_ONCE + 1):
            assert put(http, "new", content).status_code in (200, 201)
        assert not list(store.root.glob(".tmp*"))


def test_a_change_that_hangs_is_answered_and_finished(tmp_path: Path) -> None:
    site = make_site(tmp_path, watch_seconds=60.0)
    answers = threading.Event()

    def hang(step: Step) -> None:
        if step == "renamed":
            assert answers.wait(30)

    store = Store(site.parts.services.store.root, on_step=hang)
    hurry(site, 0.5, disk_seconds=0.5, store=store)
    with connected(site, headers=ADMIN) as http:
        try:
            file = site.adapter("new")
            refused = put(http, "new", file.read_bytes())
            assert (refused.status_code, refused.json()["error_type"]) == (503, "store_busy")
            assert "ask GET /v1/adapters/new" in refused.json()["error"]
            assert refused.headers["retry-after"] == "5"
            # The next one waits for the lock that the first one holds.
            assert put(http, "new", file.read_bytes()).json()["error_type"] == "store_busy"
        finally:
            answers.set()
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        wait_for(lambda: http.get("/v1/adapters/new").json().get("version") == digest)
        assert answer(http, "new") == digest
        wait_for(lambda: not list(store.root.glob(".tmp*")))


FAULTS = {
    errno.ENOSPC: (507, "store_full"),
    errno.EDQUOT: (507, "store_full"),
    errno.EROFS: (503, "store_read_only"),
    errno.EACCES: (503, "store_read_only"),
}


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
def test_a_store_that_cannot_be_written(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(tmp_path)
    store = site.parts.services.store

    def fail(step: Step) -> None:
        if step == "logged":
            raise OSError(number, os.strerror(number))

    with connected(site, headers=ADMIN) as http:
        site.publish("task")
        old, new = site.publish("task"), site.adapter("task").read_bytes()
        before = files(site)
        store._on_step = fail

        def cannot_rename(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(store_files, "detach", cannot_rename)  # a removal logs nothing
        requests: list[Callable[[], httpx.Response]] = [
            lambda: put(http, "task", new),
            lambda: put(http, "fresh", site.adapter("fresh").read_bytes()),
            lambda: http.post("/v1/adapters/task/rollback"),
            lambda: http.delete("/v1/adapters/task"),
        ]
        for ask in requests:
            refused = ask()
            assert (refused.status_code, refused.json()["error_type"]) == FAULTS[number]
            assert str(site.folder) not in refused.text
            assert ("retry-after" in refused.headers) == (refused.status_code == 503)
        assert files(site) == before
        assert answer(http, "task") == old
        assert http.post("/v1/adapters/task/pin").status_code == 200  # writes nothing
        store._on_step = lambda step: None
        assert put(http, "task", new).status_code == 201


@pytest.mark.parametrize("entry", [name for name in ENTRIES if not name.startswith("history")])
def test_odd_entries_are_mended_over_http(tmp_path: Path, entry: str) -> None:
    site = make_site(tmp_path, watch_seconds=60.0)
    store = site.parts.services.store
    with connected(site, headers=ADMIN) as http:
        version = site.publish("odd")
        content = store.path_of(version).read_bytes()
        put_odd(store.root, version, entry)
        assert put(http, "odd", content).status_code in (200, 201)
        assert Store(store.root).survey() == {"odd": version}
        put_odd(store.root, version, entry)
        assert http.delete("/v1/adapters/odd").status_code == 200
        assert Store(store.root).survey() == {}


class Recorder:
    """A registry that answers when it is let."""

    def __init__(self) -> None:
        self.synced: list[str] = []

    def sync(self, task: str) -> Future[TaskStatus]:
        self.synced.append(task)
        return Future()

    def forget(self, task: str) -> None:
        del task


def status_with(task: str, desired: str, failure: LoadFailure | None) -> TaskStatus:
    """How a task stands whose desired version answers, or does not for `failure`."""
    return TaskStatus(
        task_id=task,
        version=None if failure else desired,
        desired=desired,
        state=State.FAILED if failure else State.READY,
        degraded=failure is not None,
        failure=failure,
        retry_in=None,
        pinned=False,
        in_flight=0,
        bytes_disk=0,
        bytes_host=0,
        bytes_device=0,
        nonzeros=0,
        density=0.0,
        canary_accuracy=None,
        folded_depth=0,
        trunk_bytes=0,
        manifest=None,
        history=(),
    )


def test_a_publish_that_began_is_finished(tmp_path: Path) -> None:
    """Its request is cancelled while a thread is in the middle of the change."""
    path = write_random_adapter(tmp_path, BACKBONE, task="task", seed=0)
    reached, go_on = threading.Event(), threading.Event()

    def stop(step: Step) -> None:
        if step == "renamed":
            reached.set()
            assert go_on.wait(20)

    store = Store(tmp_path / "store", on_step=stop)
    store.prepare()
    registry = Recorder()

    async def cancel_in_the_middle() -> None:
        publishing = Publishing(store, BACKBONE, registry, load_seconds=5)

        async def request() -> None:
            async with publishing.incoming() as incoming:
                await publishing.write(incoming, path.read_bytes())
                await publishing.finish(incoming)
                await publishing.publish("task", incoming)

        running = asyncio.ensure_future(request())
        await asyncio.to_thread(reached.wait, 20)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        go_on.set()
        await _until(lambda: registry.synced == ["task"])

    asyncio.run(cancel_in_the_middle())
    digest = store.current("task")
    assert store.path_of(digest).read_bytes() == path.read_bytes()
    assert not list(store.root.glob(".tmp*"))


def test_a_request_that_is_cancelled_before_its_turn_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()

    async def cancel_while_writing() -> None:
        publishing = Publishing(store, BACKBONE, Recorder(), load_seconds=5)
        opened = asyncio.Event()

        async def request() -> None:
            async with publishing.incoming() as incoming:
                await publishing.write(incoming, b"half")
                opened.set()
                await asyncio.Event().wait()

        running = asyncio.ensure_future(request())
        await opened.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancel_while_writing())
    assert [path.name for path in store.root.iterdir()] == [".lock"]


class Refuser:
    """A registry that loads what is current by `sync`, and finds every first file not finite."""

    def __init__(self, store: Store, refused: str) -> None:
        self.forgotten: list[str] = []
        self._store = store
        self._refused = refused

    def sync(self, task: str) -> Future[TaskStatus]:
        desired = self._store.current(task)
        failure = LoadFailure("nonfinite", "it is not finite") if desired == self._refused else None
        done: Future[TaskStatus] = Future()
        done.set_result(status_with(task, desired, failure))
        return done

    def forget(self, task: str) -> None:
        self.forgotten.append(task)


class OvertakenStore(Store):
    """Another publisher commits `newer` just before the second change of this one."""

    newer: Path
    turns = 0

    @contextmanager
    def _changing(self, patience: Patience | None) -> Iterator[None]:
        self.turns += 1
        if self.turns == 2:
            Store(self.root).publish(self.newer, BACKBONE)
        with super()._changing(patience):
            yield


@pytest.mark.parametrize("older", [0, 1], ids=["alone", "with an older version"])
def test_a_refused_version_leaves_a_newer_one_alone(tmp_path: Path, older: int) -> None:
    paths = [write_random_adapter(tmp_path, BACKBONE, task="task", seed=seed) for seed in range(3)]
    store = OvertakenStore(tmp_path / "store")
    store.prepare()
    if older:
        Store(store.root).publish(paths[0], BACKBONE)
    refused, newer = (hashlib.sha256(path.read_bytes()).hexdigest() for path in paths[1:])
    store.newer = paths[2]
    registry = Refuser(store, refused)

    async def publish() -> None:
        publishing = Publishing(store, BACKBONE, registry, load_seconds=5)
        async with publishing.incoming() as incoming:
            await publishing.write(incoming, paths[1].read_bytes())
            await publishing.finish(incoming)
            await publishing.publish("task", incoming)

    with pytest.raises(AdapterRefused, match="not finite"):
        asyncio.run(publish())
    assert store.current("task") == newer
    assert len(store.versions("task")) == 1 + older
    assert refused not in store.versions("task")
    assert registry.forgotten == []


def test_a_turn_is_waited_for_as_long_as_the_lock(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()

    async def ask_for_more_than_there_are_turns() -> list[Any]:
        publishing = Publishing(store, BACKBONE, Recorder(), load_seconds=5, wait_seconds=0.3)
        (store.root / "task").mkdir()
        removals = [publishing.remove("task") for _ in range(20)]
        return await asyncio.gather(*removals, return_exceptions=True)

    with lock_held(store.root):
        began = time.monotonic()
        outcomes = asyncio.run(ask_for_more_than_there_are_turns())
        assert time.monotonic() - began < 1.4  # five rounds of four take 1.5 s
    assert {type(outcome) for outcome in outcomes} == {StoreBusy}


def test_nothing_is_published_where_the_volume_is_gone(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    with connected(site, headers=ADMIN) as http:
        site.publish("kept")
        root = site.parts.services.store.root
        for entry in list(root.iterdir()):
            shutil.move(entry, tmp_path / f"aside-{entry.name}")
        refused = put(http, "new", site.adapter("new").read_bytes())
        assert (refused.status_code, refused.json()["reason"]) == (503, "store")
        assert list(root.iterdir()) == []


async def _until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.005)
