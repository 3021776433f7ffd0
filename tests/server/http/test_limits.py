"""The pace of a transfer, and the budget of bodies, on a clock of their own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_server.http.bodies import YIELD_SECONDS, Bodies, Pace
from jumplora_server.http.limits import FREE_BODY_BYTES, allowed_connections
from jumplora_server.http.refusal import Refused

PATIENCE, RATE = 10.0, 100.0
moves = st.lists(st.tuples(st.floats(0.01, 9.9), st.integers(0, 10_000)), max_size=30)


@given(moves)
def test_a_stall_longer_than_the_patience_is_always_late(moves: list[tuple[float, int]]) -> None:
    now = 0.0
    pace = Pace(PATIENCE, RATE, now)
    for seconds, count in moves:
        now += seconds
        pace.moved(count, now)
    assert pace.is_late(now + PATIENCE)


@given(st.lists(st.floats(0.01, 9.9), max_size=30))
def test_who_keeps_the_rate_is_never_late(pauses: list[float]) -> None:
    now = 0.0
    pace = Pace(PATIENCE, RATE, now)
    for seconds in pauses:
        now += seconds
        assert not pace.is_late(now)
        pace.moved(int(seconds * RATE) + 1, now)


def test_single_bytes_buy_hardly_any_time() -> None:
    pace = Pace(PATIENCE, RATE, 0.0)
    for second in range(20):
        pace.moved(1, float(second))
    assert pace.is_late(PATIENCE + 20 / RATE)


def test_after_our_own_pause_the_client_has_its_whole_time() -> None:
    pace = Pace(PATIENCE, RATE, 0.0)
    pace.restart(100.0)
    assert not pace.is_late(100.0 + PATIENCE - 0.1)
    assert pace.is_late(100.0 + PATIENCE)


@dataclass(eq=False)
class Body:
    refusals: list[Refused] = field(default_factory=list)

    def fail(self, refusal: Refused) -> None:
        self.refusals.append(refusal)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


LARGE = 4 * FREE_BODY_BYTES
BUDGET = 2 * LARGE


def test_small_bodies_are_not_counted() -> None:
    bodies = Bodies(BUDGET, Clock())
    for _ in range(1000):
        bodies.hold(Body(), FREE_BODY_BYTES)
    assert bodies.total == 0


def test_the_body_that_passes_the_budget_is_refused() -> None:
    bodies = Bodies(BUDGET, Clock())
    first, second, third = Body(), Body(), Body()
    for body in (first, second, third):
        bodies.hold(body, LARGE)
    assert (first.refusals, second.refusals, bodies.total) == ([], [], BUDGET)
    (refusal,) = third.refusals
    assert (refusal.status_code, refusal.code) == (503, "overloaded")
    assert refusal.headers is not None
    assert refusal.headers["x-jumplora-shed"] == "1"


def test_a_body_that_takes_long_gives_way() -> None:
    clock = Clock()
    bodies = Bodies(BUDGET, clock)
    slow, slower = Body(), Body()
    bodies.hold(slower, LARGE)
    clock.now = 1.0
    bodies.hold(slow, LARGE)
    clock.now = YIELD_SECONDS
    bodies.hold(new := Body(), LARGE)
    assert (len(slower.refusals), slow.refusals, new.refusals) == (1, [], [])


def test_a_complete_body_keeps_its_room_until_it_is_answered() -> None:
    clock = Clock()
    bodies = Bodies(BUDGET, clock)
    done = [Body(), Body()]
    for body in done:
        bodies.hold(body, LARGE)
        bodies.complete(body)
    clock.now = 100.0
    bodies.hold(late := Body(), LARGE)
    assert len(late.refusals) == 1
    bodies.release(done[0])
    bodies.hold(later := Body(), LARGE)
    assert later.refusals == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3 * BUDGET), st.booleans())))
def test_the_budget_is_never_passed(steps: list[tuple[int, int, bool]]) -> None:
    clock = Clock()
    bodies = Bodies(BUDGET, clock)
    owners = [Body() for _ in range(6)]
    sizes = [0] * 6
    for index, more, is_over in steps:
        clock.now += 0.7
        owner = owners[index]
        sizes[index] += more
        bodies.hold(owner, sizes[index])
        if is_over or owner.refusals:
            bodies.release(owner)
            sizes[index] = 0
            owner.refusals.clear()
        assert 0 <= bodies.total <= BUDGET
    for owner in owners:
        bodies.release(owner)
    assert bodies.total == 0


@pytest.mark.parametrize(
    ("wanted", "files", "allowed"), [(100, 1000, 100), (8192, 1024, 768), (8192, -1, 8192)]
)
def test_open_files_bound_connections(wanted: int, files: int, allowed: int) -> None:
    assert allowed_connections(wanted, files) == allowed


def test_the_limit_of_open_files_is_raised() -> None:
    code = (
        "import resource as r; _, hard = r.getrlimit(r.RLIMIT_NOFILE)\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, hard))\n"
        "from jumplora_server.http.limits import raise_limit\n"
        "assert raise_limit() == r.getrlimit(r.RLIMIT_NOFILE)[0] == hard"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
