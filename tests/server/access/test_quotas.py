"""The meters of keys: how closely quotas hold, what fits, and that all is freed once."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_server.access.caller import ANYBODY, Caller, Quota
from jumplora_server.access.quotas import Demand, Left, QuotaReason, Quotas, Share
from jumplora_server.errors import KeyQuotaExceeded

ONE = Demand(prompts=(10,), sequences=1, rows=1, new_tokens=20)


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Desk:
    """Quotas, with a clock and what they said."""

    clock: Clock = field(default_factory=Clock)
    rejected: list[tuple[str, QuotaReason]] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.quotas = Quotas(
            self.clock,
            lambda key, reason: self.rejected.append((key, reason)),
            self.forgotten.append,
        )

    def try_take(self, caller: Caller, demand: Demand = ONE) -> list[Share] | KeyQuotaExceeded:
        try:
            return self.quotas.take(caller, demand)
        except KeyQuotaExceeded as error:
            return error

    def refusal(self, caller: Caller, demand: Demand = ONE) -> KeyQuotaExceeded:
        with pytest.raises(KeyQuotaExceeded) as refused:
            self.quotas.take(caller, demand)
        return refused.value


def caller(key: str = "a", **quota: int) -> Caller:
    return Caller(key, quota=Quota(**quota))


# How closely a quota holds


@dataclass
class Used:
    """What came of a load: prompts and tokens that were taken, requests that were refused."""

    prompts: int = 0
    tokens: int = 0
    refused: int = 0


def load(desk: Desk, who: Caller, *, rate: float, seconds: float, rng: random.Random) -> Used:
    """Offer `rate` requests a second, evenly: of one to eight prompts, which have 5 to 200 tokens
    and take up to five seconds for 1 to 100 of the 100 tokens that they may generate."""
    used, began = Used(), desk.clock.now
    ends: list[tuple[float, int, Share, int]] = []
    numbers = itertools.count()

    def end_until(now: float) -> None:
        while ends and ends[0][0] <= now:
            desk.clock.now, _, share, generated = heapq.heappop(ends)
            share.settle(generated)
            used.tokens += generated
        desk.clock.now = now

    for n in range(int(rate * seconds)):
        end_until(began + n / rate)
        lengths = [rng.randint(5, 200) for _ in range(rng.choice([1, 1, 1, 2, 8]))]
        demand = Demand([4 * length for length in lengths], 1, 1, new_tokens=100)
        shares = desk.try_take(who, demand)
        if isinstance(shares, KeyQuotaExceeded):
            used.refused += 1
            continue
        used.prompts += len(lengths)
        for share, length in zip(shares, lengths, strict=True):
            share.count(length)
            used.tokens += length
            generated = int(100 ** rng.random())
            end = desk.clock.now + rng.uniform(0.1, 5.0)
            heapq.heappush(ends, (end, next(numbers), share, generated))
    end_until(began + seconds)
    return used


MINUTES = 4
PROMPTS, TOKENS = 2.6, 2.6 * 124  # of a request of `load`, on average


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("requests", [300, 1500])
def test_ten_times_the_prompts(requests: int, seed: int) -> None:
    who = caller(requests_per_minute=requests)
    rate = 10 * requests / 60 / PROMPTS
    used = load(Desk(), who, rate=rate, seconds=60 * MINUTES, rng=random.Random(seed))
    assert used.prompts / (requests * MINUTES) == pytest.approx(1, abs=0.05)
    assert used.refused > 0.8 * rate * 60 * MINUTES


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("tokens", [60_000, 240_000])
def test_ten_times_the_tokens(tokens: int, seed: int) -> None:
    who = caller(tokens_per_minute=tokens)
    rate = 10 * tokens / 60 / TOKENS
    used = load(Desk(), who, rate=rate, seconds=60 * MINUTES, rng=random.Random(seed))
    assert used.tokens / (tokens * MINUTES) == pytest.approx(1, abs=0.05)
    assert used.refused > 0.8 * rate * 60 * MINUTES


@pytest.mark.parametrize("seed", range(2))
def test_ten_times_both(seed: int) -> None:
    """The one that is used up first holds, the other is not reached."""
    who = caller(requests_per_minute=600, tokens_per_minute=60_000)
    used = load(Desk(), who, rate=30.0, seconds=60 * MINUTES, rng=random.Random(seed))
    assert used.tokens / (60_000 * MINUTES) == pytest.approx(1, abs=0.05)
    assert used.prompts < 600 * MINUTES * 0.9


@given(
    requests=st.integers(1, 3000),
    jitter=st.floats(0, 0.9),
    seed=st.integers(0, 2**32),
)
def test_who_asks_evenly_is_never_refused(requests: int, jitter: float, seed: int) -> None:
    """Each request may come up to 0.9 s early or late."""
    desk, rng = Desk(), random.Random(seed)
    who = caller(requests_per_minute=requests)
    due = sorted(2000 + n * 60 / requests + rng.uniform(-jitter, jitter) for n in range(150))
    for desk.clock.now in due:
        desk.quotas.take(who, ONE)[0].settle(3)
    assert desk.rejected == []


@given(
    prompt=st.integers(1, 500),
    part=st.floats(0.01, 1.0),
    seconds=st.floats(0.05, 2.0),
    tokens=st.integers(600, 10**6),
)
def test_who_uses_tokens_evenly_is_never_refused(
    prompt: int, part: float, seconds: float, tokens: int
) -> None:
    """Also while it is not known yet how long the answers are, if they take 2 s at most."""
    desk, ends = Desk(), list[tuple[float, Share]]()
    who = caller(tokens_per_minute=tokens)
    generated = max(1, int(part * prompt))  # of as many as the prompt has
    for n in range(60):
        at = 2000 + n * 60 * (prompt + generated) / tokens
        while ends and ends[0][0] <= at:
            desk.clock.now, share = ends.pop(0)
            share.settle(generated)
        desk.clock.now = at
        (share,) = desk.quotas.take(who, Demand((prompt * 4,), 1, 1, new_tokens=prompt))
        share.count(prompt)
        ends.append((at + seconds, share))
    assert desk.rejected == []


def test_long_answers_of_ten_times_the_load_do_not_come_too_many_at_once() -> None:
    """None of them has ended in the first seconds; each minute holds all the same."""
    desk, who, most = Desk(), caller(tokens_per_minute=6000), 6000
    used, ends = [0] * 5, list[tuple[float, Share]]()
    rate, began = 10 * most / 60 / 138, desk.clock.now
    for n in range(int(rate * 240)):
        at = began + n / rate
        while ends and ends[0][0] <= at:
            desk.clock.now, share = ends.pop(0)
            share.settle(128)
            used[int(desk.clock.now - began) // 60] += 128
        desk.clock.now = at
        shares = desk.try_take(who, Demand((10,), 1, 1, new_tokens=128))
        if not isinstance(shares, KeyQuotaExceeded):
            used[int(at - began) // 60] += 10
            ends.append((at + 5.0, shares[0]))
    assert used[:4] == [pytest.approx(most, rel=0.05)] * 4


@given(st.sampled_from(["requests_per_minute", "tokens_per_minute"]), st.integers(1, 10_000))
def test_it_fits_after_the_time_that_is_said(name: str, most: int) -> None:
    desk = Desk()
    who = Caller("a", quota=Quota(**{name: most}))
    for _ in range(20):
        while not isinstance(came := desk.try_take(who), KeyQuotaExceeded):
            pass
        assert came.retry_after is not None
        assert came.retry_after >= 1
        desk.clock.now += came.retry_after
        desk.quotas.take(who, ONE)


def test_a_list_is_taken_whole_and_paid_for() -> None:
    desk = Desk()
    who = caller(requests_per_minute=60)
    desk.quotas.take(who, Demand([10] * 30, 1, 1, 20))
    error = desk.refusal(who)
    assert (error.reason, error.retry_after) == ("requests", 28)
    assert error.message == (
        "this key may use 60 prompts a minute, evenly; it is 30 ahead of that: try again in 28 s"
    )
    desk.clock.now += 27.9
    assert desk.refusal(who).retry_after == 1
    desk.clock.now += 0.1
    desk.quotas.take(who, ONE)
    assert desk.rejected == [("a", "requests")] * 2


def test_what_is_left() -> None:
    desk = Desk()
    who = caller(requests_per_minute=60, tokens_per_minute=6000)
    assert desk.quotas.left(who) == Left(None, None), "nothing was asked with this key"
    (share,) = desk.quotas.take(who, ONE)
    share.count(10)
    share.settle(20)
    assert desk.quotas.left(who) == Left(2, 171)
    for _ in range(2):
        desk.quotas.take(who, ONE)
    assert desk.quotas.left(who).requests == 0
    assert desk.refusal(who).reason == "requests"


# Rows


def test_rows_at_a_time() -> None:
    desk = Desk()
    who = caller(rows=4)
    beams = Demand((10,), sequences=1, rows=3, new_tokens=20)
    (beam,) = desk.quotas.take(who, beams)
    (single,) = desk.quotas.take(who, ONE)
    error = desk.refusal(who)
    assert (error.reason, error.retry_after) == ("rows", 1)
    assert error.message == (
        "this key may have 4 sequences waiting or computed at a time; it has 4: try again in 1 s"
    )
    assert "it has 4 and this request has 3" in desk.refusal(who, beams).message
    desk.clock.now += 100
    single.settle(3)
    assert "it has 3" in desk.refusal(who, beams).message
    beam.settle(3)
    desk.quotas.take(who, beams)
    for _ in range(30):
        desk.quotas.take(who, ONE)[0].give_back()
    assert desk.rejected == [("a", "rows")] * 3


def test_where_only_finished_rows_help_the_wait_is_what_rows_take() -> None:
    desk = Desk()
    who = caller(rows=2)
    for _ in range(100):
        shares = [*desk.quotas.take(who, ONE), *desk.quotas.take(who, ONE)]
        desk.clock.now += 10
        for share in shares:
            share.settle(3)
    desk.quotas.take(who, Demand((1, 1), 1, 1, 20))
    assert desk.refusal(who).retry_after == 5, "one of two ends each five seconds"
    assert desk.refusal(who, Demand((1, 1), 1, 1, 20)).retry_after == 10


Op = tuple[str, int, int, int]
OPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "settle", "give_back", "keep_request", "count", "tick", "quota"]),
        st.integers(0, 30),
        st.integers(1, 3),
        st.integers(1, 4),
    ),
    max_size=60,
)


@given(OPS)
def test_rows_in_use_are_those_that_are_open(ops: list[Op]) -> None:
    """Whatever begins and ends, in any order and more than once."""
    desk, shares, open_rows = Desk(), list[Share](), dict[int, int]()
    who = caller(rows=12, requests_per_minute=600, tokens_per_minute=60_000)
    for name, n, sequences, rows in ops:
        which = n % len(shares) if shares else 0
        if name == "take":
            demand = Demand([5] * (n % 3 + 1), sequences, rows, 20)
            fits = sum(open_rows.values()) + demand.all_rows <= 12
            taken = desk.try_take(who, demand)
            if isinstance(taken, KeyQuotaExceeded):
                assert taken.reason != "rows" or not fits
                continue
            assert fits
            open_rows |= dict.fromkeys(range(len(shares), len(shares) + len(taken)), rows)
            shares += taken
        elif name == "tick":
            desk.clock.now += n
        elif name == "quota":  # a reload changes it
            assert who.quota.rows is not None
            who = replace(who, quota=replace(who.quota, tokens_per_minute=1000 * n or None))
        elif shares and name == "count":
            shares[which].count(n)
        elif shares:
            if name == "settle":
                shares[which].settle(n)
            else:
                shares[which].give_back(requests=name == "give_back")
            open_rows.pop(which, None)
        assert desk.quotas.rows("a") == sum(open_rows.values())
    for share in shares:
        share.settle(3)
    assert desk.quotas.rows("a") == 0


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.integers(1, 3), st.booleans())
def test_what_is_given_back_cost_nothing(
    prompts: list[int], sequences: int, is_counted: bool
) -> None:
    desk = Desk()
    who = caller(requests_per_minute=600, tokens_per_minute=60_000, rows=100)
    desk.quotas.take(who, Demand((0,)))  # a use that stays
    before = desk.quotas.left(who)
    shares = desk.quotas.take(who, Demand(prompts, sequences, 2, 100))
    for share in shares:
        if is_counted:
            share.count(1)
        share.give_back()
        share.give_back()
        share.settle(100)
        share.count(100)
    assert desk.quotas.left(who) == before
    assert desk.quotas.rows("a") == 0


def test_a_fault_of_the_client_costs_the_request() -> None:
    desk = Desk()
    who = caller(requests_per_minute=60, tokens_per_minute=60_000)
    for _ in range(3):
        desk.quotas.take(who, ONE)[0].give_back(requests=False)
    assert desk.quotas.left(who) == Left(0, 2001)
    assert desk.refusal(who).reason == "requests"


def test_an_answer_is_charged_as_the_last_ones_were() -> None:
    desk = Desk()
    who = caller(tokens_per_minute=6000)
    long = Demand((10,), 1, 1, new_tokens=1000)
    for _ in range(100):
        desk.quotas.take(who, long)[0].settle(500)
        desk.clock.now += 10
    desk.clock.now += 100
    (share,) = desk.quotas.take(who, long)
    assert 300 < 10 + 500 - 200 <= (desk.refusal(who).retry_after or 0) * 100 <= 400
    share.settle(1)
    assert desk.quotas.left(who).tokens == 190, "corrected at the end"


# Keys


def test_only_keys_with_a_quota_are_metered() -> None:
    assert not any(who.is_metered for who in (ANYBODY, Caller("a"), Caller(quota=Quota(rows=1))))
    names = ("requests_per_minute", "tokens_per_minute", "rows")
    assert all(Caller("a", quota=Quota(**{name: 1})).is_metered for name in names)


def test_a_key_does_not_use_the_quota_of_another() -> None:
    desk = Desk()
    desk.quotas.take(caller("a", rows=1), ONE)
    desk.refusal(caller("a", rows=1))
    desk.quotas.take(caller("b", rows=1), ONE)
    assert desk.rejected == [("a", "rows")]


def test_a_quota_that_changes_keeps_what_was_used() -> None:
    desk = Desk()
    desk.quotas.take(caller(requests_per_minute=60), Demand([10] * 30, 1, 1, 20))
    error = desk.refusal(caller(requests_per_minute=600))
    assert "it is 30 ahead" in error.message
    assert error.retry_after == math.ceil(30 / 10 - 2)
    desk.clock.now += 1
    desk.quotas.take(caller(requests_per_minute=600), ONE)


def test_keys_that_are_gone_are_forgotten() -> None:
    desk = Desk()
    (held,) = desk.quotas.take(caller("a", rows=1), ONE)
    desk.quotas.take(caller("b", rows=1), ONE)
    desk.quotas.keep({"b", "c"})
    assert desk.forgotten == ["a"]
    assert (desk.quotas.rows("a"), desk.quotas.rows("b")) == (0, 1)
    held.settle(3)
    assert desk.quotas.rows("a") == 0
    desk.refusal(caller("b", rows=1))
    # Requests of the old key that were on their way: limited, but no series comes back.
    desk.quotas.take(caller("a", rows=1), ONE)
    desk.refusal(caller("a", rows=1))
    assert desk.rejected == [("b", "rows")]
    desk.quotas.keep({"b", "c"})
    assert desk.forgotten == ["a", "a"]
    assert desk.quotas.rows("a") == 0


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "rows"])
def test_a_quota_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; 1 and more are allowed"):
        Quota(**{name: 0})
