"""The page of `Metrics`: what each verb changes, which labels exist, and what removal leaves."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterable, Iterator
from itertools import combinations

import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families

from integration.prometheus_process import program
from jumplora_server.core import Timing
from jumplora_server.metrics import table as metrics_table
from jumplora_server.metrics.metrics import Metrics
from jumplora_server.metrics.overlap import OverlapSnapshot
from jumplora_server.metrics.state import AdapterQuality, AdapterState, Stage

DIGEST = "0123456789abcdef" * 4
QUALITY = AdapterQuality("test_exact_match", 0.81, canary_accuracy=0.9, backward_transfer=-0.08)
TIMING = Timing(queue=0.002, encode=0.03, decode=0.2, total=0.25, first_token=0.05)

Labels = dict[str, str]


class FakeClock:
    """A clock that stands still until it is told the time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def metrics(clock: FakeClock) -> Metrics:
    return Metrics(CollectorRegistry(), clock=clock, wall_clock=lambda: 1.75e9)


def families(metrics: Metrics) -> dict[str, Metric]:
    page, _ = metrics.render()
    return {family.name: family for family in text_string_to_metric_families(page.decode())}


def samples(metrics: Metrics) -> Iterator[tuple[str, Labels, float]]:
    for family in families(metrics).values():
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return the value of one series, None if the page has no such series."""
    found = [v for n, have, v in samples(metrics) if n == name and have == labels]
    assert len(found) <= 1
    return found[0] if found else None


def task_labels(metrics: Metrics) -> set[str]:
    return {labels["task_id"] for _, labels, _ in samples(metrics) if "task_id" in labels}


def publish(metrics: Metrics, task: str, state: AdapterState = "READY") -> None:
    metrics.adapter_state(
        task,
        DIGEST,
        state,
        bytes_by_tier={"disk": 10, "host": 20, "device": 0},
        nonzeros=7,
        density=0.25,
        degraded=False,
        quality=QUALITY,
    )


def use_everything(metrics: Metrics, task: str) -> None:
    """Call every verb that can make a series of the task."""
    publish(metrics, task)
    metrics.in_flight(task, 1)
    metrics.request_finished(task, "ok", TIMING, 12, 3)
    metrics.chosen(task, 0.98, None)
    metrics.chosen(task, 0.04, "mass")
    seconds: dict[Stage, float] = {"read": 0.1, "fold": 0.5, "pack": 0.2, "warmup": 0.3}
    metrics.adapter_loaded(task, {**seconds, "canaries": 0.4})
    metrics.adapter_load_failed(task, "nonfinite")
    metrics.publish_refused(task, "canary")
    metrics.swapped(task)
    metrics.rolled_back(task)
    metrics.evicted(task, "lru")
    metrics.staged(task, DIGEST, 0.1)
    metrics.version_finished(task, DIGEST, "staged", "ok", TIMING, is_judged=True)
    metrics.stage_ended(task, "aborted", "errors")
    metrics.in_flight(task, -1)


def of_versions(metrics: Metrics) -> list[Labels]:
    """The series by version, of which only a few tasks have any."""
    return [
        labels
        for name, labels, _ in samples(metrics)
        if name.startswith(("jumplora_version_", "jumplora_adapter_stage"))
    ]


class TestRequests:
    def test_a_finished_request_is_counted_and_timed(self, metrics: Metrics) -> None:
        metrics.register("boolqa")
        metrics.request_finished("boolqa", "ok", TIMING, 12, 5)
        task = {"task_id": "boolqa"}
        assert value(metrics, "jumplora_requests_total", outcome="ok", **task) == 1
        assert value(metrics, "jumplora_prompt_tokens_total", **task) == 12
        assert value(metrics, "jumplora_generation_tokens_total", **task) == 5
        expected = {
            "jumplora_request_duration_seconds": 0.25,
            "jumplora_request_queue_seconds": 0.002,
            "jumplora_request_encode_seconds": 0.03,
            "jumplora_request_decode_seconds": 0.2,
            "jumplora_time_to_first_token_seconds": 0.05,
            "jumplora_time_per_output_token_seconds": (0.25 - 0.05) / 4,
        }
        for name, seconds in expected.items():
            assert value(metrics, f"{name}_count", **task) == 1, name
            assert value(metrics, f"{name}_sum", **task) == pytest.approx(seconds), name

    @pytest.mark.parametrize("outcome", ["client_disconnect", "client_invalid"])
    def test_client_outcomes_are_not_timed(self, metrics: Metrics, outcome: str) -> None:
        metrics.register("boolqa")
        metrics.request_finished("boolqa", outcome, TIMING, 12, 5)  # type: ignore[arg-type]
        assert value(metrics, "jumplora_requests_total", outcome=outcome, task_id="boolqa") == 1
        assert value(metrics, "jumplora_request_duration_seconds_count", task_id="boolqa") == 0

    @pytest.mark.parametrize(("seconds", "timed"), [(0.001, 0), (1.0, 0), (1.01, 1), (30.0, 1)])
    def test_a_clients_deadline_is_timed_where_it_was_longer_than_the_objective(
        self, metrics: Metrics, seconds: float, timed: int
    ) -> None:
        metrics.register("boolqa")
        waited = Timing(queue=seconds, encode=0.0, decode=0.0, total=seconds, first_token=None)
        metrics.request_finished("boolqa", "client_deadline", waited, 12, 0)
        duration = "jumplora_request_duration_seconds"
        assert value(metrics, f"{duration}_count", task_id="boolqa") == timed
        # So a server that lets everybody wait looks slow, and a client in a hurry makes none fast.
        assert value(metrics, f"{duration}_bucket", task_id="boolqa", le="1.0") == 0
        assert metrics.trends.sum_of("boolqa").failed == 0

    def test_a_request_that_timed_out_in_the_queue_has_no_phases(self, metrics: Metrics) -> None:
        metrics.register("boolqa")
        waited = Timing(queue=2.0, encode=0.0, decode=0.0, total=2.0, first_token=None)
        metrics.request_finished("boolqa", "timeout", waited, 12, 0)
        assert value(metrics, "jumplora_request_queue_seconds_sum", task_id="boolqa") == 2.0
        assert value(metrics, "jumplora_request_encode_seconds_count", task_id="boolqa") == 0
        assert value(metrics, "jumplora_time_to_first_token_seconds_count", task_id="boolqa") == 0

    def test_one_token_has_no_time_per_token(self, metrics: Metrics) -> None:
        metrics.register("boolqa")
        metrics.request_finished("boolqa", "ok", TIMING, 12, 1)
        assert value(metrics, "jumplora_time_per_output_token_seconds_count", task_id="boolqa") == 0

    def test_refusals_of_a_key_are_counted_while_there_is_the_key(self, metrics: Metrics) -> None:
        name = "jumplora_key_rejections_total"
        for key, reason in (("team-a", "rows"), ("team-a", "rows"), ("team-b", "tokens")):
            metrics.key_rejected(key, reason)  # type: ignore[arg-type]
        assert value(metrics, name, key="team-a", reason="rows") == 2
        metrics.key_removed("team-a")
        metrics.key_removed("never seen")
        found = [labels for n, labels, _ in samples(metrics) if n == name]
        assert found == [{"key": "team-b", "reason": "tokens"}]

    def test_choices_have_a_mass_and_a_reason_to_abstain(self, metrics: Metrics) -> None:
        metrics.register("boolqa")
        task = {"task_id": "boolqa"}
        assert value(metrics, "jumplora_choices_mass_count", **task) is None, "not asked for yet"
        metrics.chosen("boolqa", 0.5, None)
        metrics.chosen("boolqa", 1.0, "probability")
        metrics.chosen("boolqa", 0.003, "mass")
        assert value(metrics, "jumplora_choices_mass_count", **task) == 3
        assert value(metrics, "jumplora_choices_mass_bucket", le="0.5", **task) == 2
        assert value(metrics, "jumplora_choices_mass_bucket", le="1.0", **task) == 3
        for cause in ("probability", "mass"):
            assert value(metrics, "jumplora_abstentions_total", cause=cause, **task) == 1

    def test_choices_of_a_task_that_was_removed(self, metrics: Metrics) -> None:
        metrics.register("boolqa")
        metrics.chosen("boolqa", 0.5, None)
        metrics.task_removed("boolqa")
        metrics.chosen("boolqa", 0.5, None)
        metrics.chosen(None, 0.5, None)
        assert task_labels(metrics) == {"_unknown", "_base"}
        metrics.register("boolqa")
        metrics.chosen("boolqa", 0.5, None)
        assert value(metrics, "jumplora_choices_mass_count", task_id="boolqa") == 1

    def test_in_flight_goes_up_and_down(self, metrics: Metrics) -> None:
        metrics.register("boolqa")
        assert value(metrics, "jumplora_requests_in_flight", task_id="boolqa") == 0
        metrics.in_flight("boolqa", 3)
        metrics.in_flight("boolqa", -1)
        metrics.in_flight(None, 1)
        assert value(metrics, "jumplora_requests_in_flight", task_id="boolqa") == 2
        assert value(metrics, "jumplora_requests_in_flight", task_id="_base") == 1

    def test_rejections_exist_at_zero(self, metrics: Metrics) -> None:
        assert value(metrics, "jumplora_admission_rejections_total", reason="queue_tokens") == 0
        metrics.rejected("queue_tokens")
        assert value(metrics, "jumplora_admission_rejections_total", reason="queue_tokens") == 1


class TestEngine:
    def test_queue_is_there_under_both_names(self, metrics: Metrics) -> None:
        metrics.queue(waiting=5, running=8)
        for prefix in ("jumplora_requests_", "vllm:num_requests_"):
            assert value(metrics, f"{prefix}waiting") == 5
            assert value(metrics, f"{prefix}running") == 8

    def test_steps_and_batches(self, metrics: Metrics) -> None:
        metrics.batch(rows=8, distinct_tasks=3, encoded_tokens=100)
        metrics.batch(rows=2, distinct_tasks=1, encoded_tokens=0)
        metrics.step_seconds("decode", 0.006)
        metrics.rows_in_use(7, 16)
        assert value(metrics, "jumplora_batch_rows_sum") == 10
        assert value(metrics, "jumplora_batch_rows_bucket", le="2.0") == 1
        assert value(metrics, "jumplora_batch_distinct_tasks_sum") == 4
        assert value(metrics, "jumplora_encoded_tokens_total") == 100
        assert value(metrics, "jumplora_step_seconds_sum", phase="decode") == 0.006
        assert value(metrics, "jumplora_step_seconds_count", phase="encode") == 0
        assert value(metrics, "jumplora_cache_rows_in_use") == 7
        assert value(metrics, "jumplora_cache_rows") == 16
        assert value(metrics, "vllm:kv_cache_usage_perc") == 7 / 16

    def test_heartbeat_is_an_age(self, metrics: Metrics, clock: FakeClock) -> None:
        assert value(metrics, "jumplora_engine_heartbeat_age_seconds") is None
        metrics.heartbeat()
        clock.now += 4.5
        assert value(metrics, "jumplora_engine_heartbeat_age_seconds") == 4.5

    def test_the_gateway_sees_one_series_of_running_tasks(self, metrics: Metrics) -> None:
        metrics.lora_requests(["b", "a"], ["c"], 8)
        metrics.lora_requests(["b"], [], 8)
        name = "vllm:lora_requests_info"
        assert [(have, v) for n, have, v in samples(metrics) if n == name] == [
            (
                {"max_lora": "8", "running_lora_adapters": "b", "waiting_lora_adapters": ""},
                1.75e9,
            )
        ]

    def test_sizes_and_build(self, metrics: Metrics) -> None:
        metrics.budget(used=30, limit=100)
        metrics.model_bytes(1 << 20)
        metrics.build_info("0.1.0", "2.13.0")
        assert value(metrics, "jumplora_adapter_budget_used_bytes") == 30
        assert value(metrics, "jumplora_adapter_budget_limit_bytes") == 100
        assert value(metrics, "jumplora_model_memory_bytes") == 1 << 20
        assert value(metrics, "jumplora_build_info", version="0.1.0", torch="2.13.0") == 1
        assert (value(metrics, "process_resident_memory_bytes") or 0) > 1 << 20


class TestAdapters:
    def test_state_memory_and_version(self, metrics: Metrics) -> None:
        publish(metrics, "mnli")
        task = {"task_id": "mnli"}
        assert value(metrics, "jumplora_adapter_memory_bytes", tier="host", **task) == 20
        assert value(metrics, "jumplora_adapter_nonzeros", **task) == 7
        assert value(metrics, "jumplora_adapter_density", **task) == 0.25
        assert value(metrics, "jumplora_adapter_degraded", **task) == 0
        info = {"version": DIGEST[:12], "digest": DIGEST, **task}
        assert value(metrics, "jumplora_adapter_info", **info) == 1
        states = {
            labels["state"]: v
            for name, labels, v in samples(metrics)
            if name == "jumplora_adapter_state"
        }
        assert states == {"COLD": 0, "LOADING": 0, "READY": 1, "DRAINING": 0, "FAILED": 0}

    def test_a_new_version_leaves_nothing_of_the_old_one(self, metrics: Metrics) -> None:
        publish(metrics, "mnli")
        metrics.adapter_state(
            "mnli", "f" * 64, "READY", bytes_by_tier={}, nonzeros=1, density=0.1, degraded=True
        )
        info = [have for n, have, _ in samples(metrics) if n == "jumplora_adapter_info"]
        assert info == [{"task_id": "mnli", "version": "f" * 12, "digest": "f" * 64}]
        assert value(metrics, "jumplora_adapter_memory_bytes", task_id="mnli", tier="host") is None
        assert value(metrics, "jumplora_adapter_degraded", task_id="mnli") == 1

    def test_quality_has_the_served_version(self, metrics: Metrics) -> None:
        publish(metrics, "mnli")
        version = {"task_id": "mnli", "version": DIGEST[:12]}
        accuracy = value(metrics, "jumplora_adapter_accuracy", score="test_exact_match", **version)
        assert accuracy == 0.81
        assert value(metrics, "jumplora_adapter_canary_accuracy", **version) == 0.9
        assert value(metrics, "jumplora_adapter_backward_transfer", **version) == -0.08

    @pytest.mark.parametrize("version", [None, "f" * 64], ids=["no version", "another version"])
    def test_quality_goes_with_its_version(self, metrics: Metrics, version: str | None) -> None:
        publish(metrics, "mnli")
        metrics.adapter_state(
            "mnli", version, "READY", bytes_by_tier={}, nonzeros=1, density=0.1, degraded=False
        )
        assert not {n for n, _, _ in samples(metrics)} & {
            "jumplora_adapter_accuracy",
            "jumplora_adapter_canary_accuracy",
            "jumplora_adapter_backward_transfer",
        }

    def test_no_version_no_info(self, metrics: Metrics) -> None:
        metrics.adapter_state(
            "mnli", None, "FAILED", bytes_by_tier={}, nonzeros=0, density=0.0, degraded=True
        )
        assert not [n for n, _, _ in samples(metrics) if n == "jumplora_adapter_info"]
        assert value(metrics, "jumplora_adapter_state", task_id="mnli", state="FAILED") == 1

    def test_events_are_counted_by_task(self, metrics: Metrics) -> None:
        use_everything(metrics, "mnli")
        task = {"task_id": "mnli"}
        assert value(metrics, "jumplora_adapter_loads_total", **task) == 1
        assert value(metrics, "jumplora_adapter_swaps_total", **task) == 1
        assert value(metrics, "jumplora_adapter_rollbacks_total", **task) == 1
        assert value(metrics, "jumplora_adapter_evictions_total", reason="lru", **task) == 1
        assert value(metrics, "jumplora_adapter_evictions_total", reason="unload", **task) == 0
        failures = "jumplora_adapter_load_failures_total"
        assert value(metrics, failures, code="nonfinite", **task) == 1
        assert value(metrics, "jumplora_adapter_last_load_seconds", stage="pack", **task) == 0.2
        assert value(metrics, "jumplora_adapter_load_seconds_sum", stage="warmup") == 0.3


class TestLabels:
    def test_what_clients_type_is_one_value(self, metrics: Metrics) -> None:
        metrics.register("boolqa")
        metrics.request_finished("nobody", "client_unknown_task", None)
        lines = metrics.render()[0].count(b"\n")
        for i in range(2_000):
            metrics.request_finished(f"guess-{i}", "client_unknown_task", None)
            metrics.adapter_load_failed(f"guess-{i}", "format")
            metrics.adapter_loaded(f"guess-{i}", {})
            metrics.swapped(f"guess-{i}")
            metrics.in_flight(f"guess-{i}", 1)
            metrics.in_flight(f"guess-{i}", -1)
        assert task_labels(metrics) == {"boolqa", "_unknown"}
        assert metrics.render()[0].count(b"\n") == lines + 1  # one failure code
        outcome = {"outcome": "client_unknown_task", "task_id": "_unknown"}
        assert value(metrics, "jumplora_requests_total", **outcome) == 2_001

    def test_the_bare_backbone_has_its_own(self, metrics: Metrics) -> None:
        metrics.request_finished(None, "ok", TIMING, 1, 2)
        assert task_labels(metrics) == {"_base"}

    @pytest.mark.parametrize("reserved", ["_base", "_other", "_unknown"])
    def test_reserved_values_cannot_be_registered(self, metrics: Metrics, reserved: str) -> None:
        metrics.register(reserved)
        metrics.task_removed(reserved)
        assert task_labels(metrics) == set()

    def test_tasks_beyond_the_limit_share_one_value(self) -> None:
        metrics = Metrics(CollectorRegistry(), max_task_labels=2)
        for task in ("a", "b", "c", "d"):
            use_everything(metrics, task)
        assert task_labels(metrics) == {"a", "b", "_other"}
        other = {"task_id": "_other"}
        assert value(metrics, "jumplora_requests_total", outcome="ok", **other) == 2
        assert value(metrics, "jumplora_adapter_memory_bytes", tier="host", **other) == 40
        assert value(metrics, "jumplora_adapter_state", state="READY", **other) == 2
        assert value(metrics, "jumplora_adapter_density", **other) is None  # a sum means nothing
        quality = [have["task_id"] for n, have, _ in samples(metrics) if "_accuracy" in n]
        assert set(quality) == {"a", "b"}

    def test_a_freed_label_goes_to_the_next_that_registers(self) -> None:
        metrics = Metrics(CollectorRegistry(), max_task_labels=1)
        for task in ("a", "b"):
            publish(metrics, task)
        metrics.task_removed("a")
        publish(metrics, "b")
        metrics.request_finished("b", "ok", TIMING, 1, 2)
        assert value(metrics, "jumplora_requests_total", outcome="ok", task_id="b") == 1

    def test_the_limit_is_checked(self) -> None:
        with pytest.raises(ValueError, match="max_task_labels is 0"):
            Metrics(CollectorRegistry(), max_task_labels=0)

    def test_series_of_one_task_stay_within_the_budget(self, metrics: Metrics) -> None:
        use_everything(metrics, "a")
        one = sum(1 for _ in samples(metrics))
        use_everything(metrics, "b")
        per_task = sum(1 for _ in samples(metrics)) - one
        per_task -= sum(labels.get("task_id") == "b" for labels in of_versions(metrics))
        # 200 tasks then stay within 30,000 series; deploy/prometheus scrapes at most 50,000.
        assert per_task <= 150

    def test_a_full_server_fits_the_scrape_limits(self) -> None:
        metrics = Metrics(CollectorRegistry())
        for i in range(250):
            use_everything(metrics, f"{i:03}-" + "x" * 60)  # the longest task ids
        names = [f"{i:03}-" + "x" * 60 for i in range(50)]  # as many as settings allow to compare
        metrics.adapter_overlaps(
            OverlapSnapshot(pair, (DIGEST, DIGEST), 0.2, 0.1) for pair in combinations(names, 2)
        )
        page, _ = metrics.render()
        assert page.count(b"\n") < 50_000
        assert len(page) < 5_000_000


class TestRemoval:
    def test_all_series_of_the_task_go(self, metrics: Metrics) -> None:
        use_everything(metrics, "a")
        before = metrics.render()[0].count(b'task_id="a"')
        use_everything(metrics, "b")
        metrics.task_removed("b")
        assert task_labels(metrics) == {"a"}
        assert metrics.render()[0].count(b'task_id="a"') == before

    def test_late_events_do_not_bring_it_back(self, metrics: Metrics) -> None:
        use_everything(metrics, "a")
        metrics.in_flight("a", 1)
        metrics.task_removed("a")
        metrics.task_removed("a")
        metrics.request_finished("a", "ok", TIMING, 1, 2)
        metrics.adapter_loaded("a", {"read": 0.1})
        metrics.adapter_load_failed("a", "digest")
        metrics.swapped("a")
        metrics.rolled_back("a")
        metrics.evicted("a", "unload")
        assert task_labels(metrics) == {"_unknown"}
        assert value(metrics, "jumplora_requests_in_flight", task_id="_unknown") == 1
        metrics.in_flight("a", -1)
        assert value(metrics, "jumplora_requests_in_flight", task_id="_unknown") is None
        assert value(metrics, "jumplora_requests_total", outcome="ok", task_id="_unknown") == 1

    def test_a_task_that_returns_starts_at_zero(self, metrics: Metrics) -> None:
        use_everything(metrics, "a")
        metrics.in_flight("a", 1)
        metrics.task_removed("a")
        publish(metrics, "a")
        assert value(metrics, "jumplora_requests_total", outcome="ok", task_id="a") == 0
        assert value(metrics, "jumplora_requests_in_flight", task_id="a") == 1
        metrics.in_flight("a", -1)  # begun before the removal: no count below zero
        assert value(metrics, "jumplora_requests_in_flight", task_id="a") == 0


class TestThreads:
    def test_counts_are_exact_under_concurrent_use(self, metrics: Metrics) -> None:
        tasks = ["a", "b", None, "nobody"]
        publish(metrics, "a")
        publish(metrics, "b")
        start = threading.Barrier(5)

        def work(offset: int) -> None:
            start.wait()
            for i in range(400):
                task = tasks[(i + offset) % 4]
                metrics.in_flight(task, 1)
                metrics.request_finished(task, "ok", TIMING, 1, 2)
                metrics.in_flight(task, -1)

        def scrape() -> None:
            start.wait()
            for _ in range(20):
                metrics.render()

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        threads.append(threading.Thread(target=scrape))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for label in ("a", "b", "_base", "_unknown"):
            assert value(metrics, "jumplora_requests_total", outcome="ok", task_id=label) == 400
        in_flight = [v for n, _, v in samples(metrics) if n == "jumplora_requests_in_flight"]
        assert set(in_flight) == {0}

    def test_no_series_survives_a_removal_under_load(self, metrics: Metrics) -> None:
        publish(metrics, "a")
        removed = threading.Event()

        def work() -> None:
            while not removed.is_set():
                metrics.request_finished("a", "ok", TIMING, 1, 2)
                metrics.adapter_load_failed("a", "format")
                metrics.evicted("a", "lru")

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(50):
                metrics.task_removed("a")
                publish(metrics, "a")
            metrics.task_removed("a")
        finally:
            removed.set()
            for thread in threads:
                thread.join()
        assert task_labels(metrics) <= {"_unknown"}


class TestPage:
    def test_every_instrument_of_the_table_is_on_the_page(self, metrics: Metrics) -> None:
        use_everything(metrics, "a")
        metrics.trouble(lambda: {"loader": 45.0, "watcher": 0.0}, lambda: True)
        metrics.residents("t5", 8, list, lambda: 0)
        metrics.key_rejected("team-a", "tokens")
        page = metrics.render()[0].decode()
        assert 'jumplora_thread_stuck_seconds{thread="loader"} 45.0' in page
        assert "jumplora_store_fault 1.0" in page
        on_the_page = {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")}
        device = {metrics_table.DEVICE_ALLOCATED.name, metrics_table.DEVICE_RESERVED.name}
        assert {i.name for i in metrics_table.TABLE} - on_the_page <= device
        ours = {n for n in on_the_page if n.startswith(("jumplora_", "vllm:"))}
        assert ours <= {i.name for i in metrics_table.TABLE}

    def test_names_are_unique_and_follow_the_conventions(self) -> None:
        names = [i.name for i in metrics_table.TABLE]
        assert len(set(names)) == len(names)
        for instrument in metrics_table.TABLE:
            assert instrument.name.startswith(("jumplora_", "vllm:"))
            assert (instrument.kind == "counter") == instrument.name.endswith("_total")
            assert (instrument.kind == "histogram") == bool(instrument.buckets)
            assert instrument.buckets == tuple(sorted(set(instrument.buckets)))

    def test_there_are_no_created_series(self, metrics: Metrics) -> None:
        use_everything(metrics, "a")
        assert b"_created" not in metrics.render()[0]

    def test_a_page_serves_for_as_long_as_it_may_be_old(self) -> None:
        now = 100.0
        metrics = Metrics(CollectorRegistry(), clock=lambda: now, page_seconds=1.0)
        first = metrics.render()
        publish(metrics, "a")
        now += 0.9
        assert metrics.render() == first
        now += 0.1
        assert b'task_id="a"' in metrics.render()[0]

    def test_pages_that_take_long_are_made_less_often(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 100.0
        metrics = Metrics(CollectorRegistry(), clock=lambda: now, page_seconds=1.0)
        collect = metrics.registry.collect

        def slow() -> Iterable[Metric]:
            nonlocal now
            now += 0.5
            return collect()

        monkeypatch.setattr(metrics.registry, "collect", slow)
        first = metrics.render()
        publish(metrics, "a")
        now = 104.9
        assert metrics.render() == first
        now = 105.0
        assert b'task_id="a"' in metrics.render()[0]

    def test_a_page_that_failed_is_no_page(self, monkeypatch: pytest.MonkeyPatch) -> None:
        metrics = Metrics(CollectorRegistry(), clock=lambda: 100.0, page_seconds=1.0)
        publish(metrics, "a")
        with monkeypatch.context() as broken:
            broken.setattr(metrics.registry, "collect", lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                metrics.render()
        assert b'task_id="a"' in metrics.render()[0]

    def test_content_type_is_the_text_format(self, metrics: Metrics) -> None:
        assert metrics.render()[1] == "text/plain; version=0.0.4; charset=utf-8"

    def test_a_cpu_server_has_no_device_series(self, metrics: Metrics) -> None:
        assert b"jumplora_device_memory" not in metrics.render()[0]

    def test_two_servers_in_one_process_do_not_share(self) -> None:
        first, second = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
        publish(first, "a")
        assert task_labels(second) == set()

    def test_promtool_finds_no_fault(self, metrics: Metrics) -> None:
        promtool = program("promtool")
        use_everything(metrics, "a")
        metrics.heartbeat()
        # The gateway's names have a colon, which is not ours to change and which promtool refuses.
        page = b"".join(
            line for line in metrics.render()[0].splitlines(keepends=True) if b"vllm:" not in line
        )
        command = [str(promtool), "check", "metrics"]
        result = subprocess.run(command, input=page, capture_output=True, timeout=30, check=False)
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
