"""PUT of an adapter over a real connection, and versions published into the store."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from adapter_requests import ADMIN, Started, answer, digest, fail_to_pack, files, put, received
from factories import random_adapter, random_profile, toy_backbone
from held_lock import lock_held
from jumplora_adapters.format import write_adapter
from serving import connected, make_site, slow_down, wait_for


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    site = make_site(tmp_path_factory.mktemp("site"), max_adapter_bytes=200_000)
    with connected(site, headers=ADMIN) as http:
        yield site, http


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


def test_only_a_new_task_is_published_with_if_none_match(started: Started) -> None:
    site, http = started
    first, second = (site.adapter("only").read_bytes() for _ in range(2))
    assert put(http, "only", first, if_none_match="*").status_code == 201
    before = files(site)
    for content in (second, first):  # an equal file is a repeat that found its task
        refused = put(http, "only", content, if_none_match="*")
        told = refused.json()
        assert (refused.status_code, told["error_type"]) == (412, "version_conflict")
        assert told["reason"] == "task_exists"
        assert "'only'" in told["error"]
        assert digest(first) in told["error"]
    assert files(site) == before
    assert answer(http, "only") == digest(first)
    assert http.delete("/v1/adapters/only").status_code == 200
    assert put(http, "only", second, if_none_match="*").status_code == 201


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"if_none_match": '"' + "0" * 64 + '"'}, "if-none-match: only * is read here"),
        ({"if_none_match": "*", "if_match": "0" * 64}, "if-none-match and if-match: "),
    ],
)
def test_other_conditions_are_refused(
    started: Started, headers: dict[str, str], message: str
) -> None:
    site, http = started
    refused = put(http, "condition", site.adapter("condition").read_bytes(), **headers)
    assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")
    assert refused.json()["error"].startswith(message)
    assert http.get("/v1/adapters/condition").status_code == 404


def test_of_two_publishes_of_a_new_task_at_once_one_succeeds(started: Started) -> None:
    """Both are through all checks of their files before either may change the store."""
    site, http = started
    contents = [site.adapter("race").read_bytes() for _ in range(4)]
    root = site.parts.services.store.root
    with ThreadPoolExecutor(len(contents)) as threads:
        with lock_held(root):
            asked = [threads.submit(put, http, "race", c, if_none_match="*") for c in contents]
            wait_for(lambda: received(root) == sorted(map(len, contents)))
        assert sorted(each.result().status_code for each in asked) == [201, 412, 412, 412]
    assert http.get("/v1/adapters/race").json()["history"] == [answer(http, "race")]


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


def test_publishing_into_the_folder_is_enough(started: Started) -> None:
    site, http = started
    path = site.adapter("folder")
    version = site.parts.services.store.publish(path, toy_backbone()).digest
    # Noticed is not yet loaded: between the two a request gets 503.
    wait_for(lambda: http.get("/v1/adapters/folder").json().get("version") == version)
    assert answer(http, "folder") == version


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


def test_an_adapter_of_both_parts_with_a_profile(started: Started, tmp_path: Path) -> None:
    http = started[1]
    described, deltas = random_adapter(
        toy_backbone(), task="both", kind="combined", targets=tuple(toy_backbone().sites)
    )
    spec, profile = random_profile(group="twins")
    path = tmp_path / "both.safetensors"
    write_adapter(path, described.model_copy(update={"profile": spec}), deltas, profile=profile)
    response = put(http, "both", path.read_bytes())
    assert response.status_code == 201, response.text
    shown = http.get("/v1/adapters/both").json()["manifest"]
    assert (shown["format_version"], shown["kind"]) == (2, "combined")
    assert shown["profile"] == spec.model_dump(mode="json")
    assert answer(http, "both") == response.json()["version"]


def test_a_low_rank_adapter(started: Started, tmp_path: Path) -> None:
    http = started[1]
    described, deltas = random_adapter(toy_backbone(), task="lora", kind="lowrank")
    path = tmp_path / "lora.safetensors"
    write_adapter(path, described, deltas)
    response = put(http, "lora", path.read_bytes())
    assert (response.status_code, response.json()["manifest"]["kind"]) == (201, "lowrank")
