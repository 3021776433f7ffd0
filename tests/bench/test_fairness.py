"""Scenarios of the fairness benchmark against a server of a few lines with a known capacity."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from jumplora_bench import fairness
from jumplora_bench.fairness import LONG, SCENARIOS, TASKS, FairnessBench, FairnessPlan
from jumplora_bench.server_process import ServerEnded
from jumplora_bench.tokenizer import make_tokenizer
from small_http import Asked, Said, http_server

PLAN = FairnessPlan(
    shape="tiny", rows=3, source=6, new=2, quiet_rate=20.0, seconds=0.25, windows=1
)  # fmt: skip


class Counting:
    """What the bench uses of a server: an address and the page of /metrics."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.status = 200
        self.scrapes = 0
        self.waiting = [0]  # what each scrape tells, the last one again and again
        self.now = 0
        self.most = 0
        self._lock = threading.Lock()

    def answer(self, asked: Asked) -> Said:
        with self._lock:
            self.asked.append(asked)
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.005)  # so that requests meet
        with self._lock:
            self.now -= 1
        return Said.of({}, self.status)

    def scrape(self) -> str:
        told = self.waiting[min(self.scrapes, len(self.waiting) - 1)]
        self.scrapes += 1
        return (
            f'jumplora_requests_waiting{{task_id="a"}} {told}\n'
            "jumplora_requests_running 0\njumplora_requests_total 99\n"
        )

    def tasks(self) -> Counter[str]:
        return Counter(asked.json["task_id"] for asked in self.asked)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    monkeypatch.setattr(fairness, "_RAMP_SECONDS", 0.05)
    counting = Counting()
    with http_server(counting.answer) as counting.url:
        yield counting


def bench_of(server: Counting) -> FairnessBench:
    return FairnessBench(PLAN, server, lambda state: None)  # type: ignore[arg-type]


def test_the_capacity_is_what_one_task_gets(
    server: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(server)
    counted = iter([Counter({200: 9}), Counter({200: 30, 429: 5})])
    monkeypatch.setattr(bench, "_count", lambda flood, seconds: next(counted))
    bench.prepare()
    assert bench.capacity == 30.0, "answers of the second: it lasts at least a second"


def test_a_server_that_answers_nothing_has_no_capacity(
    server: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(server)
    monkeypatch.setattr(bench, "_count", lambda flood, seconds: Counter({503: 7}))
    with pytest.raises(ServerEnded, match="503"):
        bench.prepare()


def test_alone_only_the_quiet_task_asks(server: Counting) -> None:
    window = bench_of(server).alone()
    assert server.tasks() == {"task0000": 5}  # 20 a second, a quarter of a second
    assert len(window.seconds) == 5
    assert (window.refused, window.flood) == (0, {})
    tokenizer = make_tokenizer(32128)
    for asked in server.asked:
        limits = asked.json["parameters"]
        assert limits == {"min_new_tokens": 2, "max_new_tokens": 2, "truncate": 6}
        assert len(tokenizer.encode(asked.json["inputs"]).ids) == 6


def test_quiet_requests_that_are_refused_are_counted(server: Counting) -> None:
    server.status = 429
    window = bench_of(server).alone()
    assert (window.refused, window.seconds, window.p95) == (5, [], None)


def test_a_full_batch_leaves_the_quiet_task_one_row(server: Counting) -> None:
    window = bench_of(server).full()
    assert server.tasks().keys() == {"task0000", "task0001"}
    assert server.most <= PLAN.rows
    assert window.flood[200] == server.tasks()["task0001"] > 0
    assert server.scrapes == 1, "it waits until nothing runs"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: str(scenario.name))
def test_a_flood_is_a_multiple_of_the_capacity(
    scenario: fairness.Scenario, server: Counting
) -> None:
    bench = bench_of(server)
    bench.capacity = 30.0
    window = bench.beside(scenario)
    tasks = server.tasks()
    assert tasks.pop("task0000") == 5
    assert len(tasks) == min(scenario.tasks, TASKS - 1)
    expected = int(scenario.load * 30.0 * (PLAN.seconds + 0.1))
    assert sum(tasks.values()) == sum(window.flood.values()) == expected
    flood = next(asked for asked in server.asked if asked.json["task_id"] != "task0000")
    limits = flood.json["parameters"]
    assert limits["max_new_tokens"] == (LONG if "long-" in scenario.name and scenario.new else 2)
    assert limits["truncate"] == (500 if scenario.source else 6)
    assert ("temperature" in limits) == (scenario.name == "long-sampled")


def test_a_window_ends_when_the_server_is_idle(
    server: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    server.waiting = [3, 1, 0]
    bench = bench_of(server)
    monkeypatch.setattr("jumplora_bench.fairness.time.sleep", naps.append)
    bench._wait_idle()
    assert (server.scrapes, len(naps)) == (3, 2)
    server.waiting = [1]
    with pytest.raises(TimeoutError, match="did not become idle"):
        bench._wait_idle()
    assert len(naps) == 2 + 90
