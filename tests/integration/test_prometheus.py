"""The shipped scrape configuration and rules: promtool's checks, then a real Prometheus."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from integration.prometheus_process import (
    ROOT,
    SHIPPED,
    Prometheus,
    eventually,
    program,
    prometheus,
)
from jumplora_server.core import Timing
from jumplora_server.metrics import table as metrics_table
from jumplora_server.metrics.metrics import Metrics
from jumplora_server.metrics.overlap import OverlapSnapshot
from jumplora_server.metrics.state import AdapterQuality

RULES = (SHIPPED / "jumplora.rules.yml").read_text(encoding="utf-8")
ALERTS = re.findall(r"- alert: (\w+)", RULES)
CASES = sorted((SHIPPED / "tests").glob("*.test.yml"))
LINK = '"{{ or $externalLabels.runbooks `deploy/ALERTS.md` }}#'
TASKS = ("boolqa", "dbpedia", "mnli")


def promtool(*arguments: str) -> str:
    """Run promtool and return what it printed; a failure fails the test with that text."""
    command = [str(program("promtool")), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


class TestFiles:
    def test_the_configuration_is_valid(self) -> None:
        promtool("check", "config", str(SHIPPED / "prometheus.yml"))

    def test_the_rules_pass_the_linter(self) -> None:
        rules = str(SHIPPED / "jumplora.rules.yml")
        promtool("check", "rules", "--lint=all", "--lint-fatal", rules)

    @pytest.mark.parametrize("cases", CASES, ids=lambda path: path.name)
    def test_the_rules_do_what_their_cases_say(self, cases: Path) -> None:
        promtool("test", "rules", str(cases))

    def test_no_rule_knows_a_job_by_its_name(self) -> None:
        assert not re.search(r"\bjob *(=|!=)", RULES)
        assert RULES.count(" by (") == RULES.count(" by (cluster, namespace, job")

    def test_a_first_event_is_seen_of_a_new_series_and_after_a_restart(self) -> None:
        restarted = "changes(process_start_time_seconds[15m]) > 0)"
        events = re.findall(r"or increase\((\w+\{[^}]*\})\[15m\]\)", RULES)
        assert len(events) == 5
        for series in events:
            name = series.split("{")[0]
            assert f"({series}\n          unless {name} offset 15m)" in RULES
            join = "and on (cluster, namespace, job, instance)"
            assert f"({series}\n          {join} {restarted}" in RULES

    def test_rules_name_only_metrics_that_the_code_defines(self) -> None:
        defined = {name for i in metrics_table.TABLE for name in i.sample_names()}
        used = set(re.findall(r"(?<![:\w])jumplora_\w+", RULES))
        assert used
        assert used <= defined

    def test_latency_thresholds_are_bucket_boundaries(self) -> None:
        boundaries = {str(bound) for bound in metrics_table.LATENCY_SECONDS}
        used = set(re.findall(r'le="([^"]+)"', RULES))
        assert used
        assert used <= boundaries

    @pytest.mark.parametrize("alert", ALERTS)
    def test_every_alert_can_be_acted_on(self, alert: str) -> None:
        block = RULES.split(f"- alert: {alert}\n")[1].split("- alert:")[0]
        assert re.search(r"severity: (page|ticket)", block)
        assert "summary:" in block
        assert "description:" in block
        assert f'runbook_url: {LINK}{alert.lower()}"\n' in block
        runbook = (ROOT / "deploy" / "ALERTS.md").read_text(encoding="utf-8")
        assert f"## {alert}\n" in runbook

    @pytest.mark.parametrize("alert", ALERTS)
    def test_every_alert_has_a_case_in_which_it_fires_for_two_jobs_and_ends(
        self, alert: str
    ) -> None:
        ends = False
        for case in "".join(path.read_text(encoding="utf-8") for path in CASES).split("  - name: "):
            checks = re.split(r"- (?:\{)?eval_time: ", case)[1:]
            ours = [check for check in checks if re.search(rf"alertname: {alert}\b", check)]
            fired = [n for n, check in enumerate(ours) if "exp_labels" in check]
            jobs = {
                job for n in fired for job in re.findall(r"exp_labels: .*\bjob: ([\w-]+)", ours[n])
            }
            is_quiet_after = bool(fired) and any("exp_alerts: []" in c for c in ours[fired[-1] :])
            ends = ends or (len(jobs) > 1 and is_quiet_after)
        assert ends


class Page:
    """A web server with nothing but a `Metrics` page, and somebody who uses every verb."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.stop = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body, content_type = metrics.render()
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: tests show what failed, not what was asked."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.target = f"127.0.0.1:{self.http.server_address[1]}"
        self.threads = [
            threading.Thread(target=self.http.serve_forever, args=(0.05,)),
            threading.Thread(target=self.use),
        ]

    def use(self) -> None:
        """Report steady traffic on three tasks until stopped."""
        m = self.metrics
        m.build_info("0", "0")
        m.model_bytes(1 << 20)
        m.trouble(lambda: {"loader": 0.0, "watcher": 0.0}, lambda: False)
        m.budget(600, 1000)
        m.lora_requests(TASKS, (), 8)
        for i, task in enumerate(TASKS):
            m.adapter_state(
                task,
                f"{i}" * 64,
                "READY",
                bytes_by_tier={"disk": 100 + i, "host": 200 + i, "device": 0},
                nonzeros=50,
                density=0.05,
                degraded=False,
                quality=AdapterQuality("test_exact_match", 0.8, 0.9, -0.1),
            )
            m.adapter_loaded(task, {"read": 0.01, "pack": 0.02, "warmup": 0.03})
        m.adapter_load_failed(TASKS[0], "digest")
        m.publish_refused(TASKS[0], "version_conflict")
        m.staged(TASKS[0], "1" * 64, 0.5)
        m.stage_ended(TASKS[1], "promoted", "operator")
        m.key_rejected("team-a", "rows")
        m.keys_fault(lambda: False)
        m.adapter_overlaps([OverlapSnapshot((TASKS[0], TASKS[1]), ("0" * 64, "1" * 64), 0.2, 0.1)])
        while not self.stop.wait(0.05):
            for task in TASKS:
                timing = Timing(queue=0.01, encode=0.02, decode=0.1, total=0.13, first_token=0.04)
                m.request_finished(task, "ok", timing, 20, 4)
                m.chosen(task, 0.9, None)
            m.chosen(TASKS[0], 0.1, "mass")
            m.request_finished(None, "client_invalid", None)
            m.queue(2, 5)
            m.rows_in_use(5, 16)
            m.batch(5, 3, 60)
            m.step_seconds("encode", 0.02)
            m.step_seconds("decode", 0.005)
            m.heartbeat()
            m.event_loop_lag(0.001)

    def __enter__(self) -> Page:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.http.shutdown()
        for thread in self.threads:
            thread.join()
        self.http.server_close()


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped a page under traffic at least three times."""
    folder: Path = tmp_path_factory.mktemp("prometheus")
    with (
        Page(Metrics(CollectorRegistry())) as page,
        prometheus(folder, page.target) as api,
    ):

        def scraped_three_times() -> None:
            found = api.query('sum(count_over_time(up{job="jumplora"}[1m]))')
            assert found
            assert found[0].value >= 3

        eventually(scraped_three_times, 30)
        yield api


class TestScrape:
    def test_the_target_is_up(self, scraped: Prometheus) -> None:
        targets = scraped.get("targets")["activeTargets"]
        assert [(t["health"], t["lastError"]) for t in targets] == [("up", "")]

    def test_every_instrument_arrives_but_the_gateways(self, scraped: Prometheus) -> None:
        names = set(scraped.get("label/__name__/values"))
        for instrument in metrics_table.TABLE:
            absent = instrument.name.startswith(("vllm:", "jumplora_device_"))
            for name in instrument.sample_names():
                assert (name in names) != absent, name

    def test_rules_are_evaluated_without_error(self, scraped: Prometheus) -> None:
        def all_ok() -> None:
            rules = scraped.rules()
            assert len(rules) == len(re.findall(r"- (?:alert|record):", RULES))
            assert {rule["name"]: rule["health"] for rule in rules if rule["health"] != "ok"} == {}

        eventually(all_ok, 20)

    @pytest.mark.parametrize("record", re.findall(r"- record: (\S+)", RULES))
    def test_recording_rules_have_data(self, scraped: Prometheus, record: str) -> None:
        def has_data() -> None:
            assert scraped.query(record)

        eventually(has_data, 20)

    def test_nothing_fires_on_a_healthy_server(self, scraped: Prometheus) -> None:
        assert [alert["labels"] for alert in scraped.get("alerts")["alerts"]] == []

    def test_rates_and_quantiles_are_those_of_the_traffic(self, scraped: Prometheus) -> None:
        found = scraped.query(
            "histogram_quantile(0.5, sum by (le, task_id) "
            "(rate(jumplora_request_duration_seconds_bucket[15s])))"
        )
        assert {s.labels["task_id"] for s in found if s.value == s.value} == set(TASKS)
        # Every request took 0.13 s, which lies in the bucket from 0.1 to 0.25.
        assert all(0.1 < s.value <= 0.25 for s in found if s.labels["task_id"] in TASKS)
