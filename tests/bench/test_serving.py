"""The parts of the serving benchmark on a server of a few lines beside an engine of fixed speed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from factories import toy_backbone
from jumplora_bench.answers import Slo
from jumplora_bench.choices import ServingPart
from jumplora_bench.serving import ServingBench, ServingPlan, _rates
from jumplora_bench.serving_report import Saturation, ServingFound
from jumplora_bench.traffic import Question
from small_http import Asked, Said, http_server

PLAN = ServingPlan(
    shape="tiny", rows=2, source=4, new=2, tasks=3, seconds=0.2, rounds=2, slo=Slo(1.0, 1.0)
)  # fmt: skip


class FixedEngine:
    """Takes 50 ms a batch, and notes what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[Question]] = []

    def seconds(self, questions: Sequence[Question]) -> float:
        self.batches.append(list(questions))
        return 0.05

    def tokens_per_second(self, batches: Sequence[Sequence[Question]]) -> float:
        self.batches += map(list, batches)
        return 100.0


class CountingServer:
    """Answers each question with two tokens, or with a refusal."""

    def __init__(self) -> None:
        self.url = ""
        self.refuses = False
        self.asked: list[Asked] = []
        self.now = self.most = 0
        self._lock = threading.Lock()

    def answer(self, asked: Asked) -> Said:
        with self._lock:
            self.asked.append(asked)
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.01)  # so that requests meet
        with self._lock:
            self.now -= 1
        if self.refuses:
            return Said.of({"error": "e", "error_type": "queue_full"}, 429)
        if asked.path == "/generate":
            return Said.of({"details": {"generated_tokens": 2}})
        return Said(body=b'data:{"token": {}}\n\n' * 2)


@pytest.fixture
def server() -> Iterator[CountingServer]:
    counting = CountingServer()
    with http_server(counting.answer) as counting.url:
        yield counting


def bench_of(server: CountingServer, plan: ServingPlan = PLAN) -> tuple[ServingBench, FixedEngine]:
    engine = FixedEngine()
    bench = ServingBench(plan, toy_backbone(), server, engine, lambda state: None)  # type: ignore[arg-type]
    return bench, engine


def test_every_task_is_warm_before_anything_is_measured(server: CountingServer) -> None:
    bench, engine = bench_of(server)
    bench.warm_up()
    tasks = Counter(asked.json["task_id"] for asked in server.asked)
    assert tasks == {"task0000": 1, "task0001": 1, "task0002": 1}
    assert [len(batch) for batch in engine.batches] == [PLAN.rows]


def test_saturation_asks_for_twice_the_rows_and_fills_the_engines_windows(
    server: CountingServer,
) -> None:
    bench, engine = bench_of(server)
    found = bench.saturation()
    assert found.engine == [100.0, 100.0]
    assert {how: len(speeds) for how, speeds in found.served.items()} == {"whole": 2, "streamed": 2}
    assert all(speed > 0 for speeds in found.served.values() for speed in speeds)
    assert len(found.client_cpu) == 4
    assert found.failed == {"whole": 0, "streamed": 0}
    assert server.most == 2 * PLAN.rows
    paths = {asked.path for asked in server.asked}
    assert paths == {"/generate", "/generate_stream"}
    # 0.2 s at 50 ms a batch: four of them, after the one that is timed for that.
    assert len(engine.batches) == 2 * (1 + 4)
    assert {len(batch) for batch in engine.batches} == {PLAN.rows}


def test_refused_requests_of_a_saturation_are_counted(server: CountingServer) -> None:
    server.refuses = True
    found = bench_of(server)[0].saturation()
    assert sum(found.failed.values()) == len(server.asked)
    assert min(found.failed.values()) > 0
    assert {speed for speeds in found.served.values() for speed in speeds} == {0.0}


@pytest.mark.parametrize("refuses", [False, True])
def test_one_request_alone_is_asked_of_both_in_turn(refuses: bool, server: CountingServer) -> None:
    server.refuses = refuses
    bench, engine = bench_of(server)
    found = bench.low_load("whole")
    count = 8 * PLAN.rounds
    assert found.engine == [0.05] * count
    assert len(found.served) == count
    assert found.failed == (count if refuses else 0)
    assert server.most == 1
    asked = [(each.json["task_id"], each.json["inputs"]) for each in server.asked]
    offline = [(question.task, question.text) for (question,) in engine.batches]
    assert asked == offline, "the same question"


def test_an_open_loop_has_its_rate(server: CountingServer) -> None:
    plan = replace(PLAN, seconds=1.0)
    bench, _ = bench_of(server, plan)
    found = bench.rate(40.0)
    assert found.summary.sent == len(found.answers) == len(server.asked)
    assert found.summary.sent == pytest.approx(40, abs=26)  # four standard deviations
    assert found.summary.failed == 0
    assert found.summary.good_share == 1.0
    assert all(answer.due < 1.0 for answer in found.answers)


def test_the_seed_decides_what_is_asked(server: CountingServer) -> None:
    def texts(seed: int) -> list[str]:
        bench, engine = bench_of(server, replace(PLAN, seed=seed))
        bench.low_load("whole")
        return [question.text for (question,) in engine.batches]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_rates_are_as_given_or_shares_of_what_was_streamed() -> None:
    found = ServingFound(PLAN.slo, 1)
    plan = replace(PLAN, loads=(0.5, 1.0))
    found.saturation = Saturation(served={"whole": [9.0], "streamed": [40.0, 20.0, 10.0]})
    assert _rates(plan, found) == [5.0, 10.0]  # 20 tokens a second, two an answer
    assert _rates(replace(plan, rates=(3.0,)), found) == [3.0]
    found.saturation = None
    with pytest.raises(ValueError, match="need the part saturation"):
        _rates(plan, found)


def test_all_parts_run_by_default() -> None:
    assert list(PLAN.parts) == list(ServingPart)
