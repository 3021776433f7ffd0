"""Waiting for the store's lock: with a limit, all at once, and nothing of it is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from factories import toy_backbone, write_random_adapter
from held_lock import lock_held
from jumplora_adapters.errors import StoreBusy, StoreError
from jumplora_adapters.store import Store
from jumplora_adapters.store_lock import Patience, StoreLock
from odd_entries import descriptors

BACKBONE = toy_backbone()


def test_all_waiters_give_up_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", lock_seconds=0.5)
    file = write_random_adapter(tmp_path, BACKBONE, task="one", seed=0)
    store.publish(file, BACKBONE)
    faults: list[StoreBusy] = []

    def publish() -> None:
        try:
            store.publish(file, BACKBONE)
        except StoreBusy as error:
            faults.append(error)

    before = descriptors()
    threads = [threading.Thread(target=publish) for _ in range(12)]
    with lock_held(store.root):
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert time.monotonic() - began < 12 * 0.5 / 2  # one after the other they take 6 s
    assert len(faults) == 12
    assert f"{store.root}/.lock for 0.5 s" in str(faults[0])
    assert descriptors() == before
    assert not list(store.root.glob(".tmp*"))
    assert store.publish(file, BACKBONE).outcome == "unchanged"


def test_a_lock_that_is_given_back_is_taken(tmp_path: Path) -> None:
    lock = StoreLock(tmp_path, list)
    is_held = threading.Event()

    def take() -> None:
        with lock.held(Patience(20)):
            is_held.set()

    thread = threading.Thread(target=take)
    with lock_held(tmp_path):
        thread.start()
        assert not is_held.wait(0.1)
    assert is_held.wait(20)
    thread.join(20)


def test_a_lock_file_that_was_replaced_is_not_taken_for_the_lock(tmp_path: Path) -> None:
    with lock_held(tmp_path):
        (tmp_path / ".lock").rename(tmp_path / "old")
        (tmp_path / ".lock").touch()
        second = StoreLock(tmp_path, list).held(Patience(0.05))
        with StoreLock(tmp_path, list).held(Patience(5)), pytest.raises(StoreBusy):
            second.__enter__()


@pytest.mark.parametrize("change", ["adopt", "rollback", "remove", "remove_version", "withdraw"])
def test_no_store_is_begun_where_the_volume_went_away(tmp_path: Path, change: str) -> None:
    """The folder is replaced by an empty one while the change waits for the lock."""
    root = tmp_path / "store"
    store = Store(root, lock_seconds=20)
    files = [write_random_adapter(tmp_path, BACKBONE, task="one", seed=seed) for seed in range(3)]
    digests = [store.publish(file, BACKBONE).digest for file in files[:2]]
    incoming = store.incoming()
    incoming.write(files[2].read_bytes())
    incoming.finish()
    changes: dict[str, Callable[[], object]] = {
        "adopt": lambda: store.adopt(incoming, BACKBONE),
        "rollback": lambda: store.rollback("one"),
        "remove": lambda: store.remove("one"),
        "remove_version": lambda: store.remove_version("one", digests[0]),
        "withdraw": lambda: store.withdraw("one", digests[1]),
    }
    with incoming, ThreadPoolExecutor(1) as pool, lock_held(root):
        waiting = pool.submit(changes[change])
        _until(store._lock._gate.locked)
        root.rename(tmp_path / "aside")
        root.mkdir()
        with pytest.raises(StoreError, match="mounted"):
            waiting.result(timeout=20)
    assert list(root.iterdir()) == []
    assert Store(tmp_path / "aside").survey() == {"one": digests[1]}


def test_a_store_that_never_had_a_mark_gets_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.publish(write_random_adapter(tmp_path, BACKBONE, task="one", seed=0), BACKBONE)
    (store.root / ".lock").unlink()
    store.remove("one")
    assert [path.name for path in store.root.iterdir()] == [".lock"]


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


def test_a_patience_is_spent_in_all_waits_together() -> None:
    times = iter([0.0, 4.0, 100.0, 105.0, 200.0, 203.0])
    patience = Patience(10, clock=lambda: next(times))
    with patience.waiting() as seconds:
        assert seconds == 10
    with patience.waiting() as seconds:
        assert seconds == 6
    assert patience.left == 1
    with patience.waiting():
        pass
    assert patience.left == 0
