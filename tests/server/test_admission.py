"""The queue's places: caps, Retry-After, and that every place comes back once."""

from __future__ import annotations

import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_server.admission import Admission, QueueLimits, RejectReason, Reservation
from jumplora_server.errors import Draining, QueueFull, ServerError, TaskQuotaExceeded


class Door:
    """An admission with a clock that stands still unless moved."""

    def __init__(self, limits: QueueLimits) -> None:
        self.now = 0.0
        self.rejected: list[RejectReason] = []
        self.admission = Admission(limits, lambda: self.now, self.rejected.append, random.Random(0))

    def try_reserve(self, task: str | None, tokens: int) -> Reservation | type[ServerError]:
        try:
            return self.admission.reserve(task, tokens)
        except ServerError as error:
            return type(error)


def test_the_reason_is_the_first_cap_that_is_hit() -> None:
    door = Door(QueueLimits(max_requests=3, max_tokens=10, max_requests_per_task=2))
    door.admission.reserve("a", 4)
    door.admission.reserve("a", 4)
    assert door.try_reserve("a", 1) is TaskQuotaExceeded
    assert door.try_reserve("b", 3) is QueueFull
    door.admission.reserve("b", 2)
    assert door.try_reserve("c", 0) is QueueFull
    door.admission.close()
    assert door.try_reserve("c", 0) is Draining
    assert door.rejected == ["task_quota", "queue_tokens", "queue_requests", "draining"]


def test_retry_after_follows_the_pace_of_the_queue() -> None:
    door = Door(QueueLimits(max_requests=50, max_tokens=1000, max_requests_per_task=50))
    waits = []
    for pace in (0.01, 2.0):
        held = [door.admission.reserve("a", 1) for _ in range(50)]
        for reservation in held[:40]:
            door.now += pace
            reservation.release()
        held = held[40:] + [door.admission.reserve("a", 1) for _ in range(40)]
        with pytest.raises(QueueFull) as caught:
            door.admission.reserve("a", 1)
        waits.append(caught.value.retry_after or 0.0)
        for reservation in held:
            reservation.release()
    assert 1 <= waits[0] < 10
    assert 60 < waits[1] < 130, "50 places at about 2 s each"


def test_idle_time_does_not_count_as_waiting() -> None:
    door = Door(QueueLimits(max_requests=50, max_tokens=1000, max_requests_per_task=50))
    for _ in range(3):
        held = [door.admission.reserve("a", 1) for _ in range(50)]
        door.now += 0.1
        held.pop().release()
        held.append(door.admission.reserve("a", 1))
        with pytest.raises(QueueFull) as caught:
            door.admission.reserve("a", 1)
        assert (caught.value.retry_after or 0.0) < 10
        for reservation in held:
            door.now += 0.1
            reservation.release()
        door.now += 3600.0


def test_resizing_counts_what_was_tokenized() -> None:
    door = Door(QueueLimits(max_tokens=10))
    reservation = door.admission.reserve(None, 8)
    door.admission.resize(reservation, 3)
    assert door.admission.tokens == 3
    reservation.release()
    assert door.admission.tokens == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 9), st.integers(0, 20)),
        max_size=60,
    )
)
def test_caps_hold_and_nothing_leaks(calls: list[tuple[str | None, int, int]]) -> None:
    door = Door(QueueLimits(max_requests=5, max_tokens=20, max_requests_per_task=3))
    held: list[Reservation] = []
    for task, tokens, release in calls:
        if release < len(held):
            held.pop(release).release()
            continue
        got = door.try_reserve(task, tokens)
        if isinstance(got, Reservation):
            held.append(got)
        assert len(held) == door.admission.requests <= 5
        assert sum(r.tokens for r in held) == door.admission.tokens <= 20
        assert all(sum(r.task == t for r in held) <= 3 for t in ("a", "b", None))
    for reservation in held:
        reservation.release()
        reservation.release()
    assert (door.admission.requests, door.admission.tokens) == (0, 0)


def test_the_caps_hold_under_threads() -> None:
    door = Door(QueueLimits(max_requests=8, max_tokens=1000, max_requests_per_task=8))
    got: list[Reservation] = []
    start = threading.Barrier(6)

    def grab() -> None:
        start.wait()
        for _ in range(20):
            reservation = door.try_reserve("a", 1)
            if isinstance(reservation, Reservation):
                got.append(reservation)

    threads = [threading.Thread(target=grab) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == door.admission.requests == 8
