"""The routes of adapters over a real connection, with a real store and residency."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from crafted import Parts, empty_tensors, frame, with_tensors
from factories import random_adapter, toy_backbone
from fakes import FakeEngine
from jumplora_adapters.format import write_adapter
from serving import ADMIN_KEY, Site, connected, make_site, slow_down, wait_for

Started = tuple[Site, httpx.Client]
ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    site = make_site(tmp_path_factory.mktemp("site"), max_adapter_bytes=200_000)
    with connected(site, headers=ADMIN) as http:
        yield site, http


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(http: httpx.Client, task: str, content: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.put(f"/v1/adapters/{task}", content=content, headers=named)


def answer(http: httpx.Client, task: str) -> str:
    asked = http.post("/generate", json={"task_id": task, "inputs": "x"})
    asked.raise_for_status()
    return asked.headers["x-adapter-version"]


def files(site: Site) -> set[str]:
    """Everything in the store but its lock."""
    root = site.parts.services.store.root
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    return found - {".lock"}


# Publishing


def test_put_answers_once_the_version_answers_requests(started: Started) -> None:
    site, http = started
    content = site.adapter("new").read_bytes()
    response = put(http, "new", content)
    version = digest(content)
    assert response.status_code == 201
    told = response.json()
    assert (told["task_id"], told["outcome"], told["state"]) == ("new", "created", "READY")
    assert (told["version"], told["desired"], told["history"]) == (version, version, [version])
    assert told["manifest"]["task"] == "new"
    assert response.headers["etag"] == f'"{version}"'
    assert response.headers["location"] == "/v1/adapters/new"
    assert answer(http, "new") == version
    assert sorted(path.name for path in site.parts.services.store.root.glob(".*")) == [".lock"]


def test_put_again_and_put_back(started: Started) -> None:
    site, http = started
    first, second = (site.adapter("again").read_bytes() for _ in range(2))
    statuses = [put(http, "again", content).status_code for content in (first, first, second)]
    assert statuses == [201, 200, 201]
    back = put(http, "again", first)
    assert (back.status_code, back.json()["outcome"]) == (200, "repointed")
    assert answer(http, "again") == digest(first)
    assert put(http, "again", first).json()["outcome"] == "unchanged"


def test_if_match(started: Started) -> None:
    site, http = started
    contents = [site.adapter("match").read_bytes() for _ in range(3)]
    versions = [digest(content) for content in contents]
    assert put(http, "match", contents[0]).status_code == 201
    refused = put(http, "match", contents[1], if_match=f'"{versions[2]}"')
    assert (refused.status_code, refused.json()["error_type"]) == (412, "version_conflict")
    assert answer(http, "match") == versions[0]
    assert versions[1] not in "".join(files(site))
    assert put(http, "match", contents[1], if_match=f'"{versions[0]}"').status_code == 201
    assert put(http, "match", contents[2], if_match=versions[1]).status_code == 201
    assert put(http, "match", contents[0], if_match="*").status_code == 200


def test_a_promised_hash_is_checked(started: Started) -> None:
    site, http = started
    content = site.adapter("hash").read_bytes()
    refused = put(http, "hash", content, x_content_sha256="0" * 64)
    assert (refused.status_code, refused.json()["reason"]) == (422, "digest")
    assert put(http, "hash", content, x_content_sha256=digest(content)).status_code == 201


def test_requests_go_on_while_a_version_is_replaced(started: Started) -> None:
    site, http = started
    old = site.publish("swap")
    new = site.adapter("swap").read_bytes()
    body = {"task_id": "swap", "inputs": "x" * 40}
    with slow_down(site, 0.01), http.stream("POST", "/generate_stream", json=body) as stream:
        lines = (line for line in stream.iter_lines() if line)
        next(lines)
        with httpx.Client(base_url=http.base_url, headers=ADMIN, timeout=20) as other:
            assert put(other, "swap", new).status_code == 201
            assert answer(other, "swap") == digest(new)
        *_, last = lines
    assert f'"generated_text":"{old[:8]}' in last
    assert f'"adapter_version":"{old}"' in last


def broken(change: Callable[[Parts], object]) -> Callable[[bytes], bytes]:
    def apply(content: bytes) -> bytes:
        parts = Parts.of(content)
        change(parts)
        return parts.join()

    return apply


def manifest(**fields: Any) -> Callable[[bytes], bytes]:
    def change(parts: Parts) -> None:
        parts.manifest = {**parts.manifest, **fields}

    return broken(change)


def nan(content: bytes) -> bytes:
    name = next(n for n in Parts.of(content).tensor_names if n.endswith(".values"))
    return with_tensors(content, lambda tensors: tensors[name].fill_(float("nan")))


def flipped(content: bytes) -> bytes:
    name = next(n for n in Parts.of(content).tensor_names if n.endswith(".mask"))
    return with_tensors(content, lambda tensors: tensors[name].__ixor__(1))


def foreign(content: bytes) -> bytes:
    def rename(parts: Parts) -> None:
        name = parts.tensor_names[0]
        parts.header["decoder.somewhere.else.mask"] = parts.header.pop(name)

    return broken(rename)(content)


REFUSED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "file_size"),
    "truncated": (lambda content: content[:-10], "file_size"),
    "bit flipped in a mask": (flipped, "popcount"),
    "not a number": (nan, "nonfinite"),
    "foreign module": (foreign, "names"),
    "lying header": (lambda content: b"\xff" * 8 + content[8:], "header"),
    "many tensors": (lambda content: frame(empty_tensors(3000), b""), ""),
    "a page": (lambda content: b"<html>" * 100, "header"),
    "unknown field": (manifest(extra=1), "manifest"),
    "unknown default": (manifest(generation={"beams": 4}), "manifest"),
    "another task": (manifest(task="other"), "manifest"),
    "a task out of the store": (manifest(task="../other"), "manifest"),
    "another backbone": (manifest(backbone={"fingerprint": "cd" * 32, "name": "x"}), "fingerprint"),
    "unknown ancestor": (manifest(lineage=["ef" * 32]), "missing_ancestor"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_file_leaves_nothing_and_changes_nothing(
    started: Started, case: tuple[Callable[[bytes], bytes], str]
) -> None:
    site, http = started
    damage, reason = case
    if "kept" not in {status.task_id for status in site.parts.services.residency.statuses()}:
        site.publish("kept")
    before, serving = files(site), answer(http, "kept")
    response = put(http, "kept", damage(site.adapter("kept").read_bytes()))
    told = response.json()
    assert (response.status_code, told["error_type"]) == (422, "adapter_refused"), told
    assert told["reason"] == reason or not reason
    assert files(site) == before
    assert answer(http, "kept") == serving
    status = http.get("/v1/adapters/kept").json()
    assert (status["state"], status["degraded"]) == ("READY", False)


def test_a_file_of_another_task_names_both(started: Started) -> None:
    site, http = started
    response = put(http, "here", site.adapter("there").read_bytes())
    assert response.status_code == 422
    assert "'there'" in response.json()["error"]
    assert "'here'" in response.json()["error"]
    assert http.get("/v1/adapters/here").status_code == 404


def test_a_file_over_the_limit(started: Started) -> None:
    site, http = started
    before = files(site)
    for content in (b"x" * 200_001, iter([b"x" * 100_000] * 3)):
        response = http.put("/v1/adapters/large", content=content)
        assert (response.status_code, response.json()["error_type"]) == (413, "adapter_too_large")
        assert "200000" in response.json()["error"]
    assert files(site) == before


@pytest.mark.parametrize(
    ("headers", "words"),
    [({"content-encoding": "gzip"}, "content-encoding"), ({"x-content-sha256": "x"}, "64")],
    ids=["encoded", "no hash"],
)
def test_bad_headers(started: Started, headers: dict[str, str], words: str) -> None:
    response = started[1].put("/v1/adapters/a", content=b"x", headers=headers)
    assert (response.status_code, response.json()["error_type"]) == (422, "validation")
    assert words in response.json()["error"]


def test_the_bare_backbones_name_is_taken(started: Started) -> None:
    site, http = started
    response = put(http, "base", site.adapter("base").read_bytes())
    assert (response.status_code, response.json()["reason"]) == (422, "task_id")


def test_odd_names(started: Started) -> None:
    for path in ("..%2Fout", "a%20b", "%2Ftmp%2Fx"):
        for method in ("PUT", "DELETE", "GET"):
            response = started[1].request(method, f"/v1/adapters/{path}")
            assert (response.status_code, response.json()["reason"]) == (422, "task_id")


def test_an_adapter_that_does_not_fit(tmp_path: Path) -> None:
    site = make_site(tmp_path, adapter_budget_bytes=1024)
    site.engine.nbytes = lambda adapter: 1025 if adapter.manifest.task == "large" else 100
    with connected(site, headers=ADMIN) as http:
        response = put(http, "large", site.adapter("large").read_bytes())
        told = response.json()
        assert (response.status_code, told["error_type"]) == (507, "memory_budget")
        assert (told["reason"], files(site)) == ("memory_budget", set())
        assert http.get("/v1/adapters/large").status_code == 404
        # A file also carries what takes no memory.
        content = site.adapter("small").read_bytes()
        assert len(content) > 1024
        assert put(http, "small", content).status_code == 201


def test_an_adapter_whose_output_is_not_finite(started: Started) -> None:
    site, http = started
    content = site.adapter("wild").read_bytes()
    site.engine.nonfinite.add(digest(content))
    before = files(site)
    response = put(http, "wild", content)
    told = response.json()
    assert (response.status_code, told["error_type"]) == (422, "adapter_refused")
    assert (told["reason"], files(site)) == ("nonfinite", before)
    assert http.get("/v1/adapters/wild").status_code == 404


def test_a_refused_replacement_leaves_what_was(started: Started) -> None:
    site, http = started
    older, old = site.publish("tame"), site.publish("tame")
    content = site.adapter("tame").read_bytes()
    site.engine.nonfinite.add(digest(content))
    assert put(http, "tame", content).status_code == 422
    status = http.get("/v1/adapters/tame").json()
    assert (status["version"], status["desired"], status["degraded"]) == (old, old, False)
    assert status["history"] == [older, old]
    assert digest(content) not in "".join(files(site))
    assert answer(http, "tame") == old
    failed = site.metric("jumplora_adapter_load_failures_total", task_id="tame", code="nonfinite")
    assert failed == 1
    assert http.post("/v1/adapters/tame/rollback").json()["version"] == older


def test_a_refused_version_that_others_build_on_stays(started: Started) -> None:
    site, http = started
    old, content = site.publish("root"), site.adapter("root").read_bytes()
    site.engine.nonfinite.add(digest(content))
    with ThreadPoolExecutor(1) as pool, site.engine.packs_held() as gate:
        putting = pool.submit(put, http, "root", content)
        gate.wait_for_someone()
        leaf = site.adapter("leaf", lineage=[digest(content)])
        site.parts.services.store.publish(leaf, toy_backbone())
    assert putting.result().status_code == 422
    status = http.get("/v1/adapters/root").json()
    assert (status["desired"], status["degraded"]) == (old, False)
    assert digest(content) in "".join(files(site))
    site.parts.services.store.remove("leaf")


@pytest.mark.parametrize("reason", ["popcount", "digest"])
def test_a_refused_upload_is_counted(started: Started, reason: str) -> None:
    site, http = started
    site.publish("counted")
    content = site.adapter("counted").read_bytes()
    if reason == "popcount":
        response = put(http, "counted", flipped(content))
    else:
        response = put(http, "counted", content, x_content_sha256="0" * 64)
    assert response.json()["reason"] == reason
    counted = site.metric("jumplora_adapter_load_failures_total", task_id="counted", code=reason)
    assert counted == 1


# What is published and does not load


def fail_to_pack(engine: FakeEngine, version: str) -> None:
    engine.fail_pack = lambda found: MemoryError("no memory") if found == version else None


def test_a_version_that_does_not_load_leaves_the_old_one(started: Started) -> None:
    site, http = started
    old = site.publish("degraded")
    content = site.adapter("degraded").read_bytes()
    fail_to_pack(site.engine, digest(content))
    response = put(http, "degraded", content)
    assert (response.status_code, response.json()["error_type"]) == (503, "adapter_unavailable")
    assert response.headers["retry-after"]
    assert old in response.json()["error"]
    status = http.get("/v1/adapters/degraded").json()
    assert (status["version"], status["desired"]) == (old, digest(content))
    assert status["degraded"] is True
    assert status["failure"]["code"]
    assert answer(http, "degraded") == old
    site.engine.fail_pack = lambda found: None
    loaded = http.post("/v1/adapters/degraded/load")
    assert (loaded.status_code, loaded.json()["version"]) == (200, digest(content))
    assert answer(http, "degraded") == digest(content)


def test_a_task_of_which_nothing_loads(started: Started) -> None:
    site, http = started
    content = site.adapter("hopeless").read_bytes()
    fail_to_pack(site.engine, digest(content))
    assert put(http, "hopeless", content).status_code == 503
    asked = http.post("/generate", json={"task_id": "hopeless", "inputs": "x"})
    assert (asked.status_code, asked.json()["error_type"]) == (503, "adapter_unavailable")
    assert asked.json()["reason"]
    status = http.get("/v1/adapters/hopeless").json()
    assert (status["version"], status["state"]) == (None, "FAILED")
    wait_for(lambda: site.outcomes("hopeless") == {"error": 1})
    site.engine.fail_pack = lambda found: None


# Looking, going back, removing


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


def test_publishing_into_the_folder_is_enough(started: Started) -> None:
    site, http = started
    path = site.adapter("folder")
    version = site.parts.services.store.publish(path, toy_backbone()).digest
    wait_for(lambda: http.get("/v1/adapters/folder").status_code == 200)
    wait_for(lambda: answer(http, "folder") == version)


# Switched off


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


def test_a_low_rank_adapter(started: Started, tmp_path: Path) -> None:
    http = started[1]
    described, deltas = random_adapter(toy_backbone(), task="lora", kind="lowrank")
    path = tmp_path / "lora.safetensors"
    write_adapter(path, described, deltas)
    response = put(http, "lora", path.read_bytes())
    assert (response.status_code, response.json()["manifest"]["kind"]) == (201, "lowrank")


def test_an_upload_that_breaks_off(started: Started, caplog: pytest.LogCaptureFixture) -> None:
    site, http = started
    before = files(site)
    url = httpx.URL(str(http.base_url))
    head = (
        "PUT /v1/adapters/half HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n"
        f"authorization: {ADMIN['authorization']}\r\n\r\n"
    )
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(head.encode() + b"x" * 500)
        wait_for(lambda: files(site) != before)
    wait_for(lambda: files(site) == before)
    assert "Exception" not in caplog.text


def test_a_task_published_into_the_store_answers_at_once(tmp_path: Path) -> None:
    site = make_site(tmp_path, watch_seconds=60.0)
    with connected(site, headers=ADMIN) as http:
        versions = {}
        for task in ("one", "two"):
            published = site.parts.services.store.publish(site.adapter(task), toy_backbone())
            versions[task] = published.digest
        assert answer(http, "one") == versions["one"]
        assert answer(http, f"two@{versions['two'][:8]}") == versions["two"]
        asked = http.post("/generate", json={"task_id": "three", "inputs": "x"})
        assert (asked.status_code, asked.json()["error_type"]) == (404, "unknown_task")
