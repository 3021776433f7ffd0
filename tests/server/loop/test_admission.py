"""The queue's places: caps, Retry-After, and that every place comes back once."""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_server.core import QueueLimits
from jumplora_server.errors import Draining, QueueFull, ServerError, TaskQuotaExceeded
from jumplora_server.loop.admission import Admission, RejectReason, Reservation


class Door:
    """An admission with a clock that stands still unless moved."""

    def __init__(self, limits: QueueLimits) -> None:
        self.now = 0.0
        self.rejected: list[RejectReason] = []
        self.admission = Admission(limits, lambda: self.now, self.rejected.append, random.Random(0))

    def reserve(self, task: str | None, tokens: int, rows: int = 1) -> Reservation:
        (place,) = self.admission.reserve(task, [tokens], rows=rows)
        return place

    def try_reserve(self, task: str | None, tokens: int) -> Reservation | type[ServerError]:
        try:
            return self.reserve(task, tokens)
        except ServerError as error:
            return type(error)


def test_the_reason_is_the_first_cap_that_is_hit() -> None:
    door = Door(QueueLimits(max_requests=6, max_tokens=40, task_share=0.5))
    door.reserve("a", 4)
    door.reserve("a", 4)
    assert door.try_reserve("a", 1) is TaskQuotaExceeded
    assert door.try_reserve("b", 33) is QueueFull
    for task in "bcde":
        door.reserve(task, 0)
    assert door.try_reserve("f", 0) is QueueFull
    door.admission.close()
    assert door.try_reserve("f", 0) is Draining
    assert door.rejected == ["task_quota", "queue_tokens", "queue_requests", "draining"]


@pytest.mark.parametrize(
    ("floods", "least", "most"), [(1, 95, 96), (2, 63, 65), (8, 20, 24), (50, 2, 6)]
)
def test_flooding_tasks_get_even_shares_and_leave_places(
    floods: int, least: int, most: int
) -> None:
    door = Door(QueueLimits(max_requests=256, max_tokens=10**6, task_share=0.5))
    rng = random.Random(0)
    held: list[Reservation] = []
    for _ in range(1500):  # each asks three times as often as a place comes free
        for task in [f"flood{i}" for i in range(floods)] * 3:
            if isinstance(got := door.try_reserve(task, 1), Reservation):
                held.append(got)
        held.pop(rng.randrange(len(held))).release()
        door.reserve("quiet", 1).release()
    counts = Counter(reservation.task for reservation in held)
    assert len(counts) >= floods - 1, "one may have just lost its only place"
    assert least <= min(counts.values()) <= max(counts.values()) <= most


def test_the_prompts_of_a_request_get_places_together_or_none() -> None:
    door = Door(QueueLimits(max_requests=256, max_tokens=10**6, task_share=0.5))
    for task in [f"flood{i}" for i in range(8)] * 64:
        door.try_reserve(task, 1)
    before = door.admission.requests
    assert len(door.admission.reserve("quiet", [1] * 64)) == 64, "it had nothing waiting"
    with pytest.raises(TaskQuotaExceeded):
        door.admission.reserve("quiet", [1])
    with pytest.raises(QueueFull):
        door.admission.reserve("other", [1] * (256 - before))
    assert door.admission.requests == before + 64


def test_tokens_are_shared_like_places() -> None:
    door = Door(QueueLimits(max_requests=100, max_tokens=1000, task_share=0.5))
    held = [door.try_reserve("long", 75) for _ in range(6)]
    assert held[5] is TaskQuotaExceeded, "five prompts are half of 750 tokens"
    others = [door.try_reserve("other", 75) for _ in range(3)]
    assert others[2:] == [TaskQuotaExceeded], "half of what is left"
    assert isinstance(door.try_reserve("quiet", 475), Reservation), "all that is left, once"
    assert door.try_reserve("last", 1) is QueueFull


def test_a_prompt_over_its_share_gets_in_when_its_task_has_nothing_waiting() -> None:
    door = Door(QueueLimits(max_requests=10, max_tokens=10, task_share=0.5))
    alone = door.reserve("a", 50)
    assert door.try_reserve("b", 1) is QueueFull
    alone.release()
    assert isinstance(door.try_reserve("b", 2), Reservation)
    assert isinstance(door.try_reserve("a", 8), Reservation)


@pytest.mark.parametrize("rows", [1, 5])
def test_retry_after_follows_the_pace_of_the_queue(rows: int) -> None:
    """A beam search leaves as many places at once as it is wide."""
    door = Door(QueueLimits(max_requests=50, max_tokens=1000, task_share=1.0))
    waits, count = [], 50 // rows
    for pace in (0.01, 2.0):
        held = [door.reserve("a", 1, rows) for _ in range(count)]
        for reservation in held[: count - 2]:
            door.now += pace * rows
            reservation.release()
        held = held[count - 2 :] + [door.reserve("a", 1, rows) for _ in range(count - 2)]
        with pytest.raises(QueueFull) as caught:
            door.reserve("a", 1, rows)
        waits.append(caught.value.retry_after or 0.0)
        for reservation in held:
            reservation.release()
    assert 1 <= waits[0] < 10
    assert 40 < waits[1] < 130, "50 places at about 2 s each"


def test_idle_time_does_not_count_as_waiting() -> None:
    door = Door(QueueLimits(max_requests=50, max_tokens=1000, task_share=1.0))
    for _ in range(3):
        held = [door.reserve("a", 1) for _ in range(50)]
        door.now += 0.1
        held.pop().release()
        held.append(door.reserve("a", 1))
        with pytest.raises(QueueFull) as caught:
            door.reserve("a", 1)
        assert (caught.value.retry_after or 0.0) < 10
        for reservation in held:
            door.now += 0.1
            reservation.release()
        door.now += 3600.0


def test_resizing_counts_what_was_tokenized() -> None:
    door = Door(QueueLimits(max_tokens=10, task_share=1.0))
    reservation = door.reserve(None, 8)
    door.admission.resize(reservation, 3)
    assert door.admission.tokens == 3
    reservation.release()
    assert door.admission.tokens == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 9), st.integers(0, 20)),
        max_size=60,
    ),
    st.sampled_from([0.25, 0.5, 0.9, 1.0]),
)
def test_caps_hold_and_nothing_leaks(
    calls: list[tuple[str | None, int, int]], share: float
) -> None:
    door = Door(QueueLimits(max_requests=8, max_tokens=20, task_share=share))
    held: list[Reservation] = []
    for task, tokens, release in calls:
        if release < len(held):
            held.pop(release).release()
            continue
        before = sum(r.task == task for r in held)
        got = door.try_reserve(task, tokens)
        if isinstance(got, Reservation):
            held.append(got)
            others = len(held) - 1 - before
            assert before == 0 or before + 1 <= share * (8 * (1 + share) / 2 + 1 - others)
        elif before == 0:
            assert len(held) == 8 or sum(r.tokens for r in held) + tokens > 20
        assert len(held) == door.admission.requests <= 8
        assert sum(r.tokens for r in held) == door.admission.tokens <= 20
    for reservation in held:
        reservation.release()
        reservation.release()
    assert (door.admission.requests, door.admission.tokens) == (0, 0)


def test_the_caps_hold_under_threads() -> None:
    door = Door(QueueLimits(max_requests=8, max_tokens=1000, task_share=1.0))
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
