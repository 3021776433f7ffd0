"""Alerts of a real Prometheus that scrapes one server under two names of jobs.

The rules are those that are shipped, with every duration 120 times shorter.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from integration.prometheus_process import SHIPPED, Prometheus, eventually, hurried, prometheus
from serving import Site, listening, make_site

pytestmark = pytest.mark.slow
TIMES = 120
JOBS = {"jumplora", "t5-prod"}


@dataclass(frozen=True, slots=True)
class Scene:
    """A server under traffic, and the Prometheus that scrapes it."""

    site: Site
    url: str
    api: Prometheus

    def jobs_of(self, alert: str) -> set[str]:
        """The jobs for which an alert fires."""
        found = self.api.get("alerts")["alerts"]
        names = [each["labels"] for each in found if each["state"] == "firing"]
        return {labels["job"] for labels in names if labels["alertname"] == alert}

    def wait_until(self, alert: str, jobs: Collection[str], seconds: float = 30) -> None:
        """Wait until an alert fires for these jobs and no others."""

        def look() -> None:
            assert self.jobs_of(alert) == set(jobs), alert

        eventually(look, seconds)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    site = make_site(tmp_path_factory.mktemp("site"))
    site.engine.step_seconds = 0.002
    folder = tmp_path_factory.mktemp("prometheus")
    with listening(site) as url:
        site.publish("alpha")
        target = url.removeprefix("http://")
        with (
            prometheus(folder, target, jobs=sorted(JOBS), times=TIMES) as api,
            traffic(url),
        ):
            yield Scene(site, url, api)


@contextmanager
def traffic(url: str) -> Iterator[None]:
    """Four clients, of which every twentieth request has a deadline of its own, of 1 ms."""
    stop = threading.Event()

    def ask() -> None:
        number = 0
        with httpx.Client(base_url=url, timeout=30) as http:
            while not stop.wait(0.01):
                number += 1
                body: dict[str, object] = {"task_id": "alpha", "inputs": "hello"}
                if number % 20 == 0:
                    body |= {"inputs": "x" * 60, "parameters": {"timeout_ms": 1}}
                http.post("/generate", json=body)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_durations_alone_are_changed() -> None:
    rules = (SHIPPED / "jumplora.rules.yml").read_text(encoding="utf-8")
    ours = hurried(rules, TIMES)
    assert "    interval: 500ms\n" in ours
    assert "[2160000ms]" in ours, "3d"
    durations = r"(?:\[|offset |for: |interval: )\d+(?:ms|[smhd])\b"
    assert len(re.findall(durations, rules)) > 60
    assert re.sub(durations, "", rules) == re.sub(durations, "", ours)
    assert all(found.endswith("ms") for found in re.findall(durations, ours))


def test_clients_that_leave_early_fire_nothing(scene: Scene) -> None:
    def enough() -> None:
        left = scene.api.query('sum by (job) (jumplora_requests_total{outcome="client_deadline"})')
        asked = scene.api.query("sum by (job) (jumplora_requests_total)")
        assert {sample.labels["job"] for sample in left} == JOBS
        assert all(sample.value >= 30 for sample in left)
        shares = [a.value / b.value for a, b in zip(left, asked, strict=True)]
        assert all(0.03 < share < 0.06 for share in shares), shares
        owed = scene.api.query("job:jumplora_requests_owed:increase5m")
        assert len([sample for sample in owed if sample.value > 10]) == 2

    eventually(enough, 60)
    assert scene.api.query("count by (alertname) (count_over_time(ALERTS[5m]))") == []


def test_all_rules_are_evaluated(scene: Scene) -> None:
    def well() -> None:
        rules = scene.api.rules()
        assert {r["name"]: r.get("lastError", "") for r in rules if r["health"] != "ok"} == {}

    eventually(well, 20)


def test_steps_that_fail_fire_for_both_jobs_and_end(scene: Scene) -> None:
    scene.site.engine.fail_step = lambda batch: RuntimeError("broken")
    try:
        scene.wait_until("JumpLoRAErrorBudgetBurn", JOBS)
        scene.wait_until("JumpLoRATaskErrors", JOBS)
    finally:
        scene.site.engine.fail_step = lambda batch: None
    scene.wait_until("JumpLoRAErrorBudgetBurn", (), 60)
    scene.wait_until("JumpLoRATaskErrors", (), 60)


def test_a_store_that_is_gone_fires_for_both_jobs_and_ends(scene: Scene) -> None:
    root = scene.site.parts.services.store.root
    aside: Path = root.rename(root.with_name("aside"))
    try:
        scene.wait_until("JumpLoRAStoreFault", JOBS)
    finally:
        aside.rename(root)
    scene.wait_until("JumpLoRAStoreFault", ())


def test_a_page_of_metrics_that_fails_fires_for_both_jobs_and_ends(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> tuple[bytes, str]:
        raise RuntimeError("no page")

    with monkeypatch.context() as patch:
        patch.setattr(scene.site.parts.services.metrics, "render", fail)
        scene.wait_until("JumpLoRADown", JOBS)
    scene.wait_until("JumpLoRADown", ())


def test_a_refused_first_publish_fires_for_both_jobs_and_ends(scene: Scene) -> None:
    answer = httpx.put(
        f"{scene.url}/v1/adapters/new",
        content=b"no adapter",
        headers={"authorization": "Bearer admin-key-of-tests"},
    )
    assert answer.status_code == 422
    scene.wait_until("JumpLoRAPublishRefused", JOBS)
    scene.wait_until("JumpLoRAPublishRefused", ())
