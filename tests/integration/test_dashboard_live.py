"""Every query of the dashboard and every rule, on a real server under a real Prometheus."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from deploy.grafana.dashboard import ROWS
from deploy.grafana.panel import Panel

from integration.prometheus_process import Prometheus, eventually, program, prometheus
from integration.server_process import ADMIN_KEY, RunningServer, Traffic, running_server

TASKS = ("boolqa", "dbpedia", "mnli")
PANELS = [
    pytest.param(panel, id=f"{row.title}: {panel.title}") for row in ROWS for panel in row.panels
]


@dataclass(frozen=True, slots=True)
class Scene:
    """What the tests look at."""

    server: RunningServer
    prometheus: Prometheus
    traffic: Traffic


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Traffic on three tasks, of which one was swapped and rolled back and one has a bad file."""
    program("prometheus")  # skip before anything is started
    with (
        running_server(tmp_path_factory.mktemp("server"), TASKS) as server,
        prometheus(tmp_path_factory.mktemp("prometheus"), server.target) as api,
        Traffic(server.url, TASKS) as traffic,
    ):
        newer = server.publish("boolqa", seed=7)
        eventually(lambda: expect_version(server, "boolqa", newer), 20)
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        answer = httpx.post(
            f"{server.url}/v1/adapters/boolqa/rollback", headers=headers, timeout=30
        )
        assert answer.status_code == 200, answer.text
        server.publish_garbage("mnli")
        answer = httpx.post(
            f"{server.url}/generate", json={"task_id": "nobody", "inputs": "x"}, timeout=30
        )
        assert answer.status_code == 404
        yield Scene(server, api, traffic)


def expect_version(server: RunningServer, task: str, version: str) -> None:
    status = httpx.get(f"{server.url}/v1/adapters/{task}", timeout=5).json()
    assert status["version"] == version


def filled_in(expr: str) -> str:
    """Return an expression as Grafana sends it, with all tasks chosen."""
    return expr.replace("$__rate_interval", "15s").replace("$task_id", ".*")


def test_the_server_is_scraped(scene: Scene) -> None:
    def up() -> None:
        targets = scene.prometheus.get("targets")["activeTargets"]
        assert [(t["health"], t["lastError"]) for t in targets] == [("up", "")]

    eventually(up, 20)


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_has_data(scene: Scene, panel: Panel) -> None:
    def has_data() -> None:
        for query in panel.queries:
            found = scene.prometheus.query(filled_in(query.expr))
            known = [s for s in found if not math.isnan(s.value)]
            if panel.needs == "accelerator":
                assert not known, "this server computes on the CPU"
                continue
            assert known, query.expr
            if panel.by_task == "by task":
                assert {s.labels["task_id"] for s in known} >= set(TASKS), query.expr

    eventually(has_data, 40)


def test_recording_rules_have_data_and_no_rule_fails(scene: Scene) -> None:
    def rules_are_well() -> None:
        rules = scene.prometheus.rules()
        assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}
        for rule in rules:
            if rule["type"] == "recording":
                assert scene.prometheus.query(rule["name"]), rule["name"]

    eventually(rules_are_well, 40)


def test_a_bad_file_is_seen_as_degraded(scene: Scene) -> None:
    def degraded() -> None:
        found = scene.prometheus.query("jumplora_adapter_degraded == 1")
        assert [s.labels["task_id"] for s in found] == ["mnli"]
        alerts = scene.prometheus.get("alerts")["alerts"]
        names = {(a["labels"]["alertname"], a["labels"].get("task_id")) for a in alerts}
        assert names == {("JumpLoRATaskDegraded", "mnli")}

    eventually(degraded, 20)


def test_memory_on_the_page_is_what_the_server_reports(scene: Scene) -> None:
    for task in TASKS:
        status = httpx.get(f"{scene.server.url}/v1/adapters/{task}", timeout=5).json()
        digests = scene.prometheus.query(f'jumplora_adapter_info{{task_id="{task}"}}')
        assert [s.labels["digest"] for s in digests] == [status["version"]]
        nonzeros = scene.prometheus.query(f'jumplora_adapter_nonzeros{{task_id="{task}"}}')
        assert nonzeros[0].value > 0
        disk = scene.prometheus.query(
            f'jumplora_adapter_memory_bytes{{task_id="{task}", tier="disk"}}'
        )
        assert disk[0].value == scene.server.store.path_of(status["version"]).stat().st_size


def test_swaps_are_counted_and_nobody_noticed(scene: Scene) -> None:
    def swapped() -> None:
        for event, least in (("swaps", 2), ("rollbacks", 1), ("loads", 2)):
            found = scene.prometheus.query(f'jumplora_adapter_{event}_total{{task_id="boolqa"}}')
            assert found[0].value >= least, event

    eventually(swapped, 20)
    assert scene.traffic.failures == []


def test_requests_in_flight_are_seen(scene: Scene) -> None:
    def seen() -> None:
        most = "max_over_time(sum(jumplora_requests_in_flight)[1m:1s])"
        found = scene.prometheus.query(most)
        assert found[0].value > 0, "nobody calls Metrics.in_flight"

    eventually(seen, 20)


def test_what_nobody_registered_is_no_label(scene: Scene) -> None:
    labels = set(scene.prometheus.get("label/task_id/values"))
    assert labels == {*TASKS, "_unknown"}
