"""The waiting line: order within a task, fairness between tasks."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeDetokenizer
from jumplora_server.core import AdapterRef, Encoding, Sampling, Sequence
from jumplora_server.scheduler.queue import FairQueue, Verdict, task_of
from jumplora_server.scheduler.shares import RowShares

IDS = itertools.count()
PLENTY = RowShares(1000, 0)


def waiting(task: str | None, prompt_tokens: int = 1) -> Sequence:
    """A sequence of one task."""
    return Sequence(
        id=next(IDS),
        encoding=Encoding(
            None if task is None else AdapterRef(task, f"{task}-1", (f"{task}-1",)),
            (5,) * prompt_tokens,
        ),
        sampling=Sampling(max_new_tokens=4),
        detokenizer=FakeDetokenizer(),
        arrived=0.0,
    )


def take(sequence: Sequence) -> Verdict:
    return "take"


def pick(queue: FairQueue, judge: Callable[[Sequence], Verdict] = take) -> Sequence | None:
    """What goes next, with more rows than anyone wants; charged for its prompt."""
    picked = queue.pick(judge, PLENTY, 0)
    if picked is not None:
        queue.charge(task_of(picked), len(picked.encoding.prompt))
    return picked


def fill(queue: FairQueue, *tasks: str | None, prompt_tokens: int = 1) -> list[Sequence]:
    """Push one sequence for each task named."""
    sequences = [waiting(task, prompt_tokens) for task in tasks]
    for sequence in sequences:
        queue.push(sequence)
    return sequences


def test_one_task_goes_in_order_of_arrival() -> None:
    queue = FairQueue()
    pushed = fill(queue, "a", "a", "a")
    assert [pick(queue) for _ in range(4)] == [*pushed, None]
    assert len(queue) == 0


def test_the_least_served_task_goes_first() -> None:
    queue = FairQueue()
    a1, a2, b1, base = fill(queue, "a", "a", "b", None, prompt_tokens=3)
    assert [pick(queue) for _ in range(4)] == [a1, b1, base, a2]


def test_charges_decide_whose_turn_it_is() -> None:
    queue = FairQueue()
    fill(queue, "a", "b")
    queue.charge("a", 2.0)
    assert (queue.served("a"), queue.served("b")) == (2.0, 0.0)
    picked = pick(queue)
    assert picked is not None
    assert task_of(picked) == "b"
    assert queue.served("b") == 1.0


def test_verdicts() -> None:
    queue = FairQueue()
    a1, a2, b1 = fill(queue, "a", "a", "b")
    verdicts: dict[int, Verdict] = {a1.id: "pass", a2.id: "drop", b1.id: "take"}
    assert pick(queue, lambda s: verdicts[s.id]) is b1
    assert len(queue) == 1, "passed over, it stays; dropped, it is gone"
    assert pick(queue, lambda s: "stop") is None
    assert pick(queue) is a1


def test_a_task_that_comes_back_is_lifted() -> None:
    queue = FairQueue()
    fill(queue, "busy", "busy")
    queue.charge("busy", 100.0)
    fill(queue, "back")
    assert queue.served("back") == 100.0
    queue.charge("back", 50.0)
    fill(queue, "third")
    assert queue.served("third") == 100.0, "to the least of those that wait"


def test_lifted_to_the_running_where_none_waits() -> None:
    queue = FairQueue()
    fill(queue, "busy")
    pick(queue)
    queue.charge("busy", 9.0)
    fill(queue, "back")
    assert queue.served("back") == 10.0


def test_a_debt_outlives_a_short_absence() -> None:
    queue = FairQueue()
    fill(queue, "other")
    (first,) = fill(queue, "greedy")
    queue.charge("greedy", 500.0)
    queue.discard(first)
    queue.leave(first)
    fill(queue, "greedy")
    assert queue.served("greedy") == 500.0


def test_an_idle_queue_forgets() -> None:
    queue = FairQueue()
    (only,) = fill(queue, "a")
    queue.charge("a", 500.0)
    assert pick(queue) is only
    queue.leave(only)
    fill(queue, "b")
    assert (queue.served("a"), queue.served("b")) == (0.0, 0.0)


@given(
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=60),
    st.fixed_dictionaries({task: st.integers(1, 40) for task in "abc"}),
)
def test_backlogged_tasks_get_equal_service(picks: list[str], cost: dict[str, int]) -> None:
    """VTC's bound: counters of backlogged tasks never differ by more than one request's cost."""
    queue = FairQueue()
    for task in "abc":
        for _ in range(len(picks) + 1):
            queue.push(waiting(task, cost[task]))
    for _ in picks:
        picked = pick(queue)
        assert picked is not None
        counters = [queue.served(task) for task in "abc"]
        assert max(counters) - min(counters) <= max(cost.values())
