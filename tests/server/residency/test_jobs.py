"""The loader's jobs: order, merging, waiting for room, starving."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from jumplora_server.residency.jobs import Job, Jobs
from jumplora_server.residency.status import TaskStatus


class Clock:
    """Time that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def take(jobs: Jobs) -> Job:
    """The next job, which must be there."""
    turn = jobs.next()
    assert turn is not None
    assert turn.job is not None
    return turn.job


def test_oldest_first_and_merged() -> None:
    jobs = Jobs(Clock(), 3.0)
    first: Future[TaskStatus] = Future()
    second: Future[TaskStatus] = Future()
    jobs.request("settle", "a", room="free", future=first)
    jobs.request("fetch", "d1")
    jobs.request("settle", "a", failures="retry", future=second)
    job = take(jobs)
    assert (job.kind, job.subject, job.room, job.failures) == ("settle", "a", "evict", "retry")
    assert job.futures == [first, second]
    jobs.request("settle", "a")
    assert [take(jobs).subject, take(jobs).subject] == ["d1", "a"], "asked again: after the others"


def test_comparisons_come_last() -> None:
    jobs = Jobs(Clock(), 3.0)
    jobs.request("compare", "")
    jobs.request("settle", "a")
    jobs.request("compare", "")
    jobs.request("fetch", "d1")
    assert [take(jobs).kind for _ in range(3)] == ["settle", "fetch", "compare"]


def test_a_job_without_room_lets_others_go_first_and_keeps_its_turn() -> None:
    jobs = Jobs(Clock(), 3.0)
    jobs.request("fetch", "large")
    large = take(jobs)
    jobs.request("fetch", "small")
    jobs.put_back(large, "large")
    assert take(jobs).subject == "small"
    jobs.request("fetch", "late")
    jobs.room_made()
    assert [take(jobs).subject, take(jobs).subject] == ["large", "late"]


def test_room_made_while_a_job_was_tried_is_not_missed() -> None:
    jobs = Jobs(Clock(), 3.0)
    jobs.request("fetch", "large")
    large = take(jobs)
    jobs.room_made()
    jobs.put_back(large, "large")
    assert take(jobs) is large


def test_putting_back_joins_what_was_asked_meanwhile() -> None:
    jobs = Jobs(Clock(), 3.0)
    first: Future[TaskStatus] = Future()
    second: Future[TaskStatus] = Future()
    jobs.request("settle", "a", future=first)
    job = take(jobs)
    jobs.request("settle", "a", failures="retry", future=second)
    jobs.put_back(job, "d1")
    jobs.room_made()
    again = take(jobs)
    assert (again.futures, again.failures) == ([first, second], "retry")


def test_starving_jobs_are_told_once_in_a_while() -> None:
    clock = Clock()
    jobs = Jobs(clock, 3.0)
    jobs.request("fetch", "large")
    jobs.put_back(take(jobs), "large")
    clock.now = 3.0
    turn = jobs.next()
    assert turn is not None
    assert (turn.job, turn.starving) == (None, ("large",))
    job = take(jobs)
    jobs.put_back(job, "large")
    clock.now = 5.9
    jobs.poke()
    turn = jobs.next()
    assert turn is not None
    assert turn.starving == ()


def test_waits_for_work_and_ends() -> None:
    jobs = Jobs(Clock(), 3.0)
    seen: list[str | None] = []

    def work() -> None:
        while (turn := jobs.next()) is not None:
            seen.append(None if turn.job is None else turn.job.subject)

    thread = threading.Thread(target=work)
    thread.start()
    jobs.request("settle", "a")
    jobs.poke()
    jobs.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert not jobs.request("settle", "b")


def test_what_is_waited_for_overtakes_what_changed_and_that_the_bulk() -> None:
    jobs = Jobs(Clock(), 3.0)
    jobs.request("settle", "bulk", urgency="later")
    jobs.request("settle", "raised", urgency="later")
    jobs.request("settle", "changed", urgency="soon")
    jobs.request("fetch", "d1")
    jobs.request("settle", "raised", urgency="now")
    assert [take(jobs).subject for _ in range(4)] == ["raised", "d1", "changed", "bulk"]


def test_a_retry_comes_at_its_time_or_when_it_is_asked_for() -> None:
    clock = Clock()
    jobs = Jobs(clock, 3.0)
    jobs.request("settle", "a", urgency="later", at=60.0)
    jobs.request("settle", "b", urgency="later", at=60.0)
    jobs.request("settle", "a", failures="retry")
    job = take(jobs)
    assert (job.subject, job.urgency, job.due) == ("a", "now", 3.0)
    clock.now = 60.0
    assert take(jobs).subject == "b"


def test_after_the_stop_nothing_is_put_back() -> None:
    jobs = Jobs(Clock(), 3.0)
    jobs.request("fetch", "large")
    job = take(jobs)
    jobs.stop()
    assert not jobs.put_back(job, "large")
    assert jobs.next() is None


def test_stopping_hands_out_the_futures() -> None:
    jobs = Jobs(Clock(), 3.0)
    future: Future[TaskStatus] = Future()
    jobs.request("settle", "a", future=future)
    assert jobs.stop() == [future]
    assert jobs.next() is None
