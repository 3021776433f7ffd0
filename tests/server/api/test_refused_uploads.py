"""Uploads that are refused: nothing is kept, nothing changes, and the answer says why."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from torch import Tensor

from adapter_requests import ADMIN, Started, answer, digest, files, put
from crafted import Parts, empty_tensors, frame, with_tensors
from factories import toy_backbone
from serving import connected, make_site, wait_for


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    site = make_site(tmp_path_factory.mktemp("site"), max_adapter_bytes=200_000)
    with connected(site, headers=ADMIN) as http:
        yield site, http


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
    def spoil(tensors: dict[str, Tensor]) -> None:
        values = [tensor for name, tensor in tensors.items() if name.endswith(".values")]
        max(values, key=Tensor.numel).fill_(float("nan"))  # the first may be empty

    return with_tensors(content, spoil)


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
    if "kept" not in {status.task_id for status in site.parts.services.residency.each_status()}:
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
    ("headers", "status", "code", "words"),
    [
        ({"content-encoding": "gzip"}, 415, "unsupported_media_type", "content-encoding"),
        ({"x-content-sha256": "x"}, 422, "validation", "64"),
    ],
    ids=["encoded", "no hash"],
)
def test_bad_headers(
    started: Started, headers: dict[str, str], status: int, code: str, words: str
) -> None:
    response = started[1].put("/v1/adapters/a", content=b"x", headers=headers)
    assert (response.status_code, response.json()["error_type"]) == (status, code)
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
