"""Looking at adapters, going back, pinning and removing, over a real connection."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from adapter_requests import ADMIN, Started, answer, files
from jumplora_adapters.history import HistoryEntry
from jumplora_adapters.store import Store
from jumplora_server.changes import MAX_CHANGES, Changes
from jumplora_server.store_threads import StoreThreads
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
        "staged": None,
        "aliases": {},
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


def test_changes_are_those_of_the_store_oldest_first(started: Started) -> None:
    site, http = started
    first, second = (site.publish("changing") for _ in range(2))
    site.parts.services.store.remove_version("changing", first)
    third = site.publish("changing")
    body = http.post("/v1/adapters/changing/rollback").json()
    told = [(change["event"], change["version"]) for change in body["changes"]]
    assert told == [
        ("publish", first),
        ("publish", second),
        ("remove", first),
        ("publish", third),
        ("rollback", second),
    ]
    times = [datetime.fromisoformat(change["at"]) for change in body["changes"]]
    assert times == sorted(times)
    for method, path in (("GET", ""), ("POST", "/load"), ("POST", "/pin")):
        answer = http.request(method, f"/v1/adapters/changing{path}").json()
        assert answer["changes"] == body["changes"], path
    put = http.put("/v1/adapters/changing", content=site.adapter("changing").read_bytes()).json()
    assert put["changes"][:-1] == body["changes"]
    assert put["changes"][-1]["version"] == put["version"]
    http.post("/v1/adapters/changing/pin", json={"pinned": "unpinned"})


def test_only_the_last_changes_are_shown(started: Started) -> None:
    site, http = started
    versions = [site.publish("restless") for _ in range(2)]
    store = site.parts.services.store
    for number in range(MAX_CHANGES + 1):
        store.rollback("restless", versions[number % 2])
    changes = http.get("/v1/adapters/restless").json()["changes"]
    assert len(changes) == MAX_CHANGES
    assert [change["version"] for change in changes[-2:]] == [versions[1], versions[0]]
    assert {change["event"] for change in changes} == {"rollback"}


class SlowStore(Store):
    """Its logs cannot be read until it may go on."""

    may_go_on = threading.Event()

    def changes(self, task: str) -> tuple[HistoryEntry, ...]:
        assert self.may_go_on.wait(20)
        return super().changes(task)


class CountedStore(Store):
    """Counts the logs that are read."""

    reads = 0

    def changes(self, task: str) -> tuple[HistoryEntry, ...]:
        self.reads += 1
        return super().changes(task)


def test_a_store_that_hangs_delays_an_answer_by_a_moment_only(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    services = site.parts.services
    slow = SlowStore(services.store.root)
    site.app.state.services = replace(services, changes=Changes(slow, StoreThreads(1, 0.05)))
    with connected(site, headers=ADMIN) as http:
        version = site.publish("alpha")
        try:
            for _ in range(2):  # the second one gets no thread at all
                answer = http.get("/v1/adapters/alpha")
                assert (answer.status_code, answer.json()["version"]) == (200, version)
                assert answer.json()["changes"] == []
        finally:
            slow.may_go_on.set()
        wait_for(lambda: len(http.get("/v1/adapters/alpha").json()["changes"]) == 1)
        slow.may_go_on.clear()
        site.publish("alpha")  # so that the log must be read again
        try:
            for _ in range(2):
                changes = http.get("/v1/adapters/alpha").json()["changes"]
                assert [change["version"] for change in changes] == [version], "what was known"
        finally:
            slow.may_go_on.set()
        wait_for(lambda: len(http.get("/v1/adapters/alpha").json()["changes"]) == 2)


def test_a_log_is_read_again_only_once_it_changed(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    services = site.parts.services
    store = CountedStore(services.store.root)
    site.app.state.services = replace(services, changes=Changes(store))

    def told() -> list[str]:
        changes = http.get("/v1/adapters/alpha").json()["changes"]
        return [change["version"] for change in changes]

    def is_kept() -> bool:
        """Files that were changed just now are not trusted for a moment."""
        before = store.reads
        told()
        return store.reads == before

    with connected(site, headers=ADMIN) as http:
        first = site.publish("alpha")
        assert told() == [first]
        wait_for(is_kept)
        before = store.reads
        assert [told() for _ in range(5)] == [[first]] * 5
        assert store.reads == before
        second = site.publish("alpha")
        assert told() == [first, second]


def test_of_a_store_that_cannot_be_read_no_changes_are_asked(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    with connected(site, headers=ADMIN) as http:
        version = site.publish("alpha")
        services = site.parts.services
        services.store.root.rename(tmp_path / "away")
        wait_for(lambda: services.residency.store_fault is not None)
        found = http.get("/v1/adapters/alpha").json()
        assert (found["version"], found["changes"]) == (version, [])
