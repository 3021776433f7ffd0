"""Leases."""

from __future__ import annotations

import threading

import pytest

from jumplora_server.core import AdapterRef, Lease

V1 = "a1" * 32
SERVED = AdapterRef("agnews", V1, (V1,))


class Count:
    """Counts leases."""

    def __init__(self) -> None:
        self.value = 1
        self.lock = threading.Lock()

    def up(self) -> None:
        with self.lock:
            self.value += 1

    def down(self) -> None:
        with self.lock:
            self.value -= 1


def test_shares_are_released_on_their_own() -> None:
    count = Count()
    lease = Lease(SERVED, None, count.up, count.down)
    with lease:
        share = lease.share()
        assert count.value == 2
    assert lease.is_released
    assert not share.is_released
    lease.release()
    assert count.value == 1
    share.release()
    share.release()
    assert count.value == 0
    with pytest.raises(AssertionError, match="released"):
        lease.share()


def test_only_one_of_many_threads_releases() -> None:
    count = Count()
    lease = Lease(SERVED, None, count.up, count.down)
    start = threading.Barrier(8)

    def release() -> None:
        start.wait()
        lease.release()

    threads = [threading.Thread(target=release) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.value == 0


def test_the_backbone_needs_no_count() -> None:
    with Lease.base() as lease:
        assert lease.ref is None
        lease.share().release()
