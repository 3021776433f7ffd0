"""Looking at adapters, going back, pinning and removing, over a real connection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapter_requests import ADMIN, Started, answer, files
from serving import connected, make_site, wait_for


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    site = make_site(tmp_path_factory.mktemp("site"), max_adapter_bytes=200_000)
    with connected(site, headers=ADMIN) as http:
        yield site, http


def test_list(started: Started) -> None:
    site, http = started
    version = site.publish("listed")
    adapters = http.get("/v1/adapters").json()["adapters"]
    names = [adapter["task_id"] for adapter in adapters]
    assert names == sorted(names)
    (listed,) = (adapter for adapter in adapters if adapter["task_id"] == "listed")
    assert listed.pop("bytes")["host"] == 100
    assert listed == {
        "task_id": "listed",
        "version": version,
        "desired": version,
        "state": "READY",
        "degraded": False,
        "failure": None,
        "pinned": False,
        "in_flight": 0,
        "nonzeros": 3,
        "density": 0.25,
        "folded_depth": 0,
        "trunk_bytes": 0,
    }


def test_unknown_tasks(started: Started) -> None:
    site, http = started
    site.publish("known")
    for method, path in (("GET", ""), ("POST", "/rollback"), ("POST", "/load"), ("POST", "/pin")):
        response = http.request(method, f"/v1/adapters/knowm{path}")
        assert (response.status_code, response.json()["error_type"]) == (404, "unknown_task"), path
        assert "known" in response.json()["error"], path
    assert http.delete("/v1/adapters/knowm").status_code == 404


def test_rollback(started: Started) -> None:
    site, http = started
    first, second, third = (site.publish("back") for _ in range(3))
    response = http.post("/v1/adapters/back/rollback")
    assert (response.status_code, response.json()["version"]) == (200, second)
    assert answer(http, "back") == second
    response = http.post("/v1/adapters/back/rollback", json={"version": third[:8]})
    assert response.json()["version"] == third
    http.post("/v1/adapters/back/rollback", json={"version": first})
    assert answer(http, "back") == first
    unknown = http.post("/v1/adapters/back/rollback", json={"version": "0" * 64})
    assert (unknown.status_code, unknown.json()["error_type"]) == (404, "unknown_version")
    odd = http.post("/v1/adapters/back/rollback", json={"version": "../x"})
    assert (odd.status_code, odd.json()["error_type"]) == (422, "validation")


def test_rollback_without_a_past(started: Started) -> None:
    site, http = started
    version = site.publish("young")
    response = http.post("/v1/adapters/young/rollback")
    assert (response.status_code, response.json()["error_type"]) == (404, "unknown_version")
    assert answer(http, "young") == version


def test_pin(started: Started) -> None:
    site, http = started
    site.publish("pinned")
    assert http.post("/v1/adapters/pinned/pin").json()["pinned"] is True
    assert http.get("/v1/adapters/pinned").json()["pinned"] is True
    response = http.post("/v1/adapters/pinned/pin", json={"pinned": "unpinned"})
    assert response.json()["pinned"] is False
    assert http.post("/v1/adapters/pinned/pin", json={"pinned": True}).status_code == 422


def test_delete(started: Started) -> None:
    site, http = started
    site.publish("gone")
    assert http.delete("/v1/adapters/gone").json() == {"task_id": "gone", "removed": True}
    assert http.post("/generate", json={"task_id": "gone", "inputs": "x"}).status_code == 404
    assert not any(name.startswith("gone") for name in files(site))
    wait_for(lambda: 'task_id="gone"' not in http.get("/metrics").text)


def test_an_ancestor_is_not_deleted(started: Started) -> None:
    site, http = started
    ancestor = site.publish("ancestor")
    site.publish("descendant", lineage=(ancestor,))
    response = http.delete("/v1/adapters/ancestor")
    assert (response.status_code, response.json()["error_type"]) == (409, "adapter_in_use")
    assert "descendant" in response.json()["error"]
    said = http.post("/generate", json={"task_id": "descendant", "inputs": "x"}).json()
    assert said["generated_text"].startswith(f"{ancestor[:8]}+")


def test_writing_is_off_without_an_admin_key(tmp_path: Path) -> None:
    site = make_site(tmp_path, admin_keys="")
    with connected(site) as http:
        site.publish("open")
        for method, path in (
            ("PUT", ""),
            ("DELETE", ""),
            ("POST", "/rollback"),
            ("POST", "/load"),
            ("POST", "/pin"),
        ):
            response = http.request(method, f"/v1/adapters/open{path}", headers=ADMIN)
            assert (response.status_code, response.json()["error_type"]) == (403, "forbidden")
            assert "JUMPLORA_ADMIN_KEYS" in response.json()["error"]
        assert http.get("/v1/adapters/open").status_code == 200
