"""Probes, the metrics page and /info."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from factories import toy_backbone
from jumplora_server.api.health import PROBES
from jumplora_server.residency.residency import FIRST_LOADS_SECONDS, Residency
from jumplora_server.version import VERSION
from serving import Site, connected, make_site, wait_for

Started = tuple[Site, httpx.Client]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    site = make_site(tmp_path_factory.mktemp("site"), stall_seconds=0.2)
    with connected(site) as http:
        site.publish("alpha")
        yield site, http


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/ping"])
def test_all_is_well(started: Started, path: str) -> None:
    response = started[1].get(path)
    assert (response.status_code, response.json()["status"]) == (200, "ok")
    assert set(response.json()["checks"].values()) == {"ok"}


def test_an_engine_that_hangs_is_noticed(started: Started) -> None:
    site, http = started
    body = {"task_id": "alpha", "inputs": "x"}
    with ThreadPoolExecutor(1) as pool:
        with site.engine.steps_held() as gate:
            waiting = pool.submit(http.post, "/generate", json=body)
            gate.wait_for_someone()
            wait_for(lambda: http.get("/livez").status_code == 503)
            response = http.get("/readyz")
            assert response.status_code == 503
            assert "no step has ended" in response.json()["checks"]["engine"]
            assert response.headers["retry-after"] == "1"
        assert waiting.result().status_code == 200
    wait_for(lambda: http.get("/livez").status_code == 200)
    assert http.get("/readyz").json()["status"] == "ok"


def test_a_loader_that_stands_still_is_told_and_takes_nothing_away(tmp_path: Path) -> None:
    site = make_site(tmp_path, stall_seconds=0.2)
    store = site.parts.services.store
    with connected(site) as http:
        site.publish("alpha")
        with site.engine.packs_held() as gate:
            store.publish(site.adapter("beta"), toy_backbone())
            gate.wait_for_someone()
            wait_for(lambda: http.get("/readyz").json()["status"] == "degraded")
            answer = http.get("/readyz")
            assert answer.status_code == 200
            told = {name: text for name, text in answer.json()["checks"].items() if text != "ok"}
            assert set(told) == {"loader"}
            assert told["loader"].startswith("it stands still; ")
            faults = http.get("/v1/overview").json()["server"]["faults"]
            assert faults["loader"].startswith("busy for "), "what a key may read says with what"
            assert site.metric("jumplora_thread_stuck_seconds", thread="loader") > 0.2
            assert site.metric("jumplora_thread_stuck_seconds", thread="watcher") == 0
            assert http.get("/livez").json()["checks"]["loader"] == "ok"
            body = {"task_id": "alpha", "inputs": "x"}
            assert http.post("/generate", json=body).status_code == 200
        wait_for(lambda: http.get("/readyz").json()["status"] == "ok")
        assert site.metric("jumplora_thread_stuck_seconds", thread="loader") == 0


def test_a_store_that_cannot_be_read_is_told_while_what_is_loaded_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(tmp_path)
    with connected(site) as http:
        site.publish("alpha")
        with monkeypatch.context() as broken:
            broken.setattr(Residency, "store_fault", property(lambda self: "the disk is gone"))
            answer = http.get("/readyz")
            assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
            assert answer.json()["checks"]["store"].startswith("it cannot be read; ")
            faults = http.get("/v1/overview").json()["server"]["faults"]
            assert faults == {"store": "the disk is gone"}
            assert http.get("/livez").json()["status"] == "ok"
            assert site.metric("jumplora_store_fault") == 1
        assert http.get("/readyz").json()["status"] == "ok"
        assert site.metric("jumplora_store_fault") == 0


def test_a_server_without_tasks_whose_store_cannot_be_read_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Residency, "store_fault", property(lambda self: "the disk is gone"))
    with connected(make_site(tmp_path)) as http:
        answer = http.get("/readyz")
        assert answer.status_code == 503
        told = answer.json()["checks"]["adapters"]
        assert told.startswith("no task is known, and the store cannot be read; ")
        faults = http.get("/v1/overview").json()["server"]["faults"]
        assert (
            faults["adapters"] == "no task is known, and the store cannot be read: the disk is gone"
        )


@pytest.mark.parametrize("path", ["/readyz", "/health", "/ping", "/v2/health/ready"])
def test_probes_say_how_many_tasks_fail_and_keys_read_which(tmp_path: Path, path: str) -> None:
    site = make_site(tmp_path)
    site.engine.fail_pack = lambda digest: ValueError("alpha is odd")
    with connected(site) as http:
        for task in ("alpha", "beta"):
            site.publish(task)
        answer = http.get(path)
        assert answer.status_code == 503
        assert "none of 2 tasks can be served; the server's log and" in answer.text
        assert "alpha" not in answer.text
        faults = http.get("/v1/overview").json()["server"]["faults"]
        assert faults["adapters"] == (
            "none of 2 tasks can be served: alpha: ValueError: alpha is odd"
        )


def test_readiness_waits_for_first_loads_a_moment_and_no_longer(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    for task in ("alpha", "beta"):
        site.parts.services.store.publish(site.adapter(task), toy_backbone())
    with site.engine.packs_held() as gate, connected(site) as http:
        gate.wait_for_someone()
        began = site.parts.services.clock()
        wait_for(lambda: http.get("/readyz").status_code == 200)
        assert not site.parts.services.residency.settled
        assert site.parts.services.clock() - began < FIRST_LOADS_SECONDS + 2


def test_a_ready_server_has_loaded_its_few_adapters(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.parts.services.store.publish(site.adapter("alpha"), toy_backbone())
    with connected(site) as http:
        wait_for(lambda: http.get("/readyz").status_code == 200)
        assert site.parts.services.residency.settled


@pytest.mark.parametrize("path", sorted(PROBES))
def test_probes_are_answered_while_every_common_thread_waits(tmp_path: Path, path: str) -> None:
    """As for a disk that hangs: anyio has 40 threads for all blocking work of the routes."""
    site = make_site(tmp_path)

    async def probe() -> int:
        release = threading.Event()
        status = 0
        transport = httpx.ASGITransport(site.app)
        async with (
            site.app.router.lifespan_context(site.app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as http,
            anyio.create_task_group() as group,
        ):
            limiter = anyio.to_thread.current_default_thread_limiter()
            for _ in range(int(limiter.total_tokens)):
                group.start_soon(anyio.to_thread.run_sync, release.wait, 30.0)
            try:
                with anyio.fail_after(20):
                    while limiter.available_tokens:
                        await anyio.sleep(0)
                    status = (await http.get(path)).status_code
            finally:
                release.set()
        return status

    assert asyncio.run(probe()) == 200


def test_an_idle_engine_is_well(started: Started) -> None:
    site, http = started
    wait_for(lambda: site.parts.services.clock() - site.parts.services.loop.progress.last > 0.3)
    assert http.get("/livez").status_code == 200


@pytest.mark.parametrize("recovery", ["a good step", "quiet"])
def test_steps_that_fail_in_a_row_are_noticed(tmp_path: Path, recovery: str) -> None:
    site = make_site(tmp_path, stall_seconds=60.0 if recovery == "a good step" else 0.5)
    with connected(site) as http:
        site.publish("alpha")
        body = {"task_id": "alpha", "inputs": "x"}
        site.engine.fail_step = lambda batch: RuntimeError("kernel")
        for failed in range(1, 6):
            assert http.post("/generate", json=body).status_code == 500
            checks = http.get("/readyz").json()["checks"]
            assert (checks["steps"] == "ok") == (failed < 5)
        assert http.get("/livez").status_code == 200
        site.engine.fail_step = lambda batch: None
        if recovery == "a good step":
            assert http.get("/readyz").status_code == 503
            assert http.post("/generate", json=body).status_code == 200
            assert http.get("/readyz").status_code == 200
        wait_for(lambda: http.get("/readyz").status_code == 200)


def test_draining_fails_readiness_and_takes_requests_until_refused(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    body = {"task_id": "alpha", "inputs": "x"}
    with connected(site) as http:
        site.publish("alpha")
        site.parts.services.lifecycle.drain()
        assert http.get("/readyz").json()["checks"]["lifecycle"] == "draining"
        assert http.get("/livez").status_code == 200
        assert http.post("/generate", json=body).status_code == 200
        site.parts.services.loop.drain()
        assert http.post("/generate", json=body).status_code == 503


def test_nothing_runs_before_the_start(tmp_path: Path) -> None:
    site = make_site(tmp_path)

    async def probe(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(site.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.get(path)

    assert asyncio.run(probe("/livez")).status_code == 503
    checks = asyncio.run(probe("/readyz")).json()["checks"]
    assert checks["lifecycle"] == "starting"
    assert checks["loader"] != "ok"


def test_metrics(started: Started) -> None:
    site, http = started
    before = site.outcomes("alpha").get("ok", 0)
    http.post("/generate", json={"task_id": "alpha", "inputs": ["x", "y"]})
    wait_for(lambda: site.outcomes("alpha").get("ok", 0) == before + 2)
    page = http.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, sample.labels.get("task_id"), sample.labels.get("outcome")): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }
    assert samples["jumplora_requests_total", "alpha", "ok"] == before + 2
    assert samples["jumplora_request_duration_seconds_count", "alpha", None] == before + 2
    assert samples["jumplora_prompt_tokens_total", "alpha", None] >= 4
    assert samples["jumplora_requests_in_flight", "alpha", None] == 0


def test_info(started: Started) -> None:
    told: dict[str, Any] = started[1].get("/info").json()
    assert told["version"] == VERSION
    assert (told["model_id"], told["model_dtype"]) == ("toy", "float32")
    assert (told["max_input_tokens"], told["max_new_tokens"]) == (64, 256)
    assert told["backbone_fingerprints"] == [told["backbone_fingerprint"], "ba" * 32]
    assert told["base"] is told["default_task"] is None
    assert told["adapters"] == 1


def test_info_has_the_names_that_an_operator_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site = make_site(tmp_path, served_name="google/flan-t5", default_task="alpha@01234567")
    with connected(site) as http:
        told = http.get("/info").json()
    assert (told["model_id"], told["default_task"]) == ("google/flan-t5", "alpha@01234567")
    assert "backbone google/flan-t5 (" in caplog.text


def test_a_server_that_can_serve_none_of_its_tasks_is_not_ready(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.engine.fail_pack = lambda found: MemoryError("no memory")
    store = site.parts.services.store
    store.publish(site.adapter("alpha"), toy_backbone())
    with connected(site) as http:
        wait_for(lambda: "none of 1 tasks" in http.get("/readyz").json()["checks"]["adapters"])
        assert http.get("/readyz").status_code == 503
        assert http.get("/livez").status_code == 200
        site.engine.fail_pack = lambda found: None
        store.publish(site.adapter("beta"), toy_backbone())
        wait_for(lambda: http.get("/readyz").status_code == 200)


def test_an_empty_server_and_one_of_the_bare_backbone_are_ready(tmp_path: Path) -> None:
    with connected(make_site(tmp_path / "empty")) as http:
        wait_for(lambda: http.get("/readyz").status_code == 200)
    site = make_site(tmp_path / "base", allow_base="yes")
    site.engine.fail_pack = lambda found: MemoryError("no memory")
    site.parts.services.store.publish(site.adapter("alpha"), toy_backbone())
    with connected(site) as http:
        wait_for(lambda: http.get("/v1/adapters/alpha").json()["state"] == "FAILED")
        assert http.get("/readyz").status_code == 200
