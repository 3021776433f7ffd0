"""Waiting for the store's lock: with a limit, all at once, and nothing of it is left."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from factories import toy_backbone, write_random_adapter
from jumplora_adapters.errors import StoreBusy
from jumplora_adapters.store import Store
from jumplora_adapters.store_lock import Patience, StoreLock
from odd_entries import descriptors

BACKBONE = toy_backbone()


@contextmanager
def held_elsewhere(root: Path) -> Iterator[None]:
    """The lock in another's hands; flock takes two descriptors for two holders."""
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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
    with held_elsewhere(store.root):
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
    lock = StoreLock(tmp_path)
    is_held = threading.Event()

    def take() -> None:
        with lock.held(Patience(20)):
            is_held.set()

    thread = threading.Thread(target=take)
    with held_elsewhere(tmp_path):
        thread.start()
        assert not is_held.wait(0.1)
    assert is_held.wait(20)
    thread.join(20)


def test_a_lock_file_that_was_replaced_is_not_taken_for_the_lock(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path):
        (tmp_path / ".lock").rename(tmp_path / "old")
        second = StoreLock(tmp_path).held(Patience(0.05))
        with StoreLock(tmp_path).held(Patience(5)), pytest.raises(StoreBusy):
            second.__enter__()


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
