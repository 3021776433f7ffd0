"""Staged versions and names over HTTP: stage, promote, take back, name, and who answers then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from adapter_requests import Started, answer, digest
from jumplora_adapters.manifest import Canary
from serving import ADMIN_KEY, connected, make_site

RIGHT = Canary(prompt="x", expected="x")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    site = make_site(tmp_path)
    with connected(site) as http:
        http.headers["authorization"] = f"Bearer {ADMIN_KEY}"
        yield site, http


def two(started: Started) -> tuple[str, str]:
    """The current version of the task "a", and an older one."""
    site, _ = started
    older = site.publish("a")
    return site.publish("a"), older


def post(http: httpx.Client, what: str, **body: object) -> httpx.Response:
    return http.post(f"/v1/adapters/a/{what}", json=body)


def answers(http: httpx.Client, count: int = 10, **headers: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for _ in range(count):
        asked = http.post("/generate", json={"task_id": "a", "inputs": "x"}, headers=headers)
        asked.raise_for_status()
        version = asked.headers["x-adapter-version"]
        assert asked.json()["generated_text"].startswith(version[:8]), "the header tells who it was"
        found[version] += 1
    return found


def test_stage_change_the_share_promote(started: Started) -> None:
    current, other = two(started)
    _, http = started
    told = post(http, "stage", version=other[:8], share=0.3, promote_after=3600).json()
    assert told["version"] == current
    staged = told["staged"]
    assert (staged["version"], staged["share"], staged["is_open"]) == (other, 0.3, True)
    assert staged["promote_after"] == 3600
    assert answers(http) == {current: 7, other: 3}
    assert post(http, "stage", version="staged", share=0.5).status_code == 200
    assert answers(http) == {current: 5, other: 5}
    compared = http.get("/v1/adapters/a").json()["comparison"]
    assert compared["verdict"] == "too_few_requests"
    assert compared["staged"]["requests"] == 8
    assert compared["current"]["requests"] == 12
    refused = post(http, "promote", version=current)
    assert (refused.status_code, refused.json()["error_type"]) == (412, "version_conflict")
    told = post(http, "promote", version=other).json()
    assert (told["version"], told["staged"]) == (other, None)
    assert answers(http) == {other: 10}
    events = [(change["event"], change["version"]) for change in told["changes"]]
    assert events[-3:] == [("stage", other), ("stage", other), ("promote", other)]
    assert post(http, "rollback").json()["version"] == current


def test_only_drawn_requests_are_compared(started: Started) -> None:
    """Who names a version asks other things than the rest, and texts of one request go together."""
    current, other = two(started)
    _, http = started
    post(http, "stage", version=other, share=0.5)
    for spec in ("a@staged", "a@current", f"a@{other}", f"a@{current[:8]}"):
        http.post("/generate", json={"task_id": spec, "inputs": "x"}).raise_for_status()
    for _ in range(6):
        body = {"task_id": "a", "inputs": ["x"] * 7, "parameters": {"max_new_tokens": 2}}
        http.post("/generate", json=body).raise_for_status()
    compared = http.get("/v1/adapters/a").json()["comparison"]
    assert [compared[role]["requests"] for role in ("staged", "current")] == [3, 3]


def test_take_back_with_a_reason(started: Started) -> None:
    current, other = two(started)
    site, http = started
    post(http, "stage", version=other, share=1)
    assert answers(http, 3) == {other: 3}
    told = post(http, "unstage", note="answers are too short").json()
    assert told["staged"] is None
    assert told["changes"][-1]["note"] == "answers are too short"
    assert answers(http, 3) == {current: 3}
    assert (
        site.metric(
            "jumplora_adapter_stage_endings_total", task_id="a", ending="aborted", cause="operator"
        )
        == 1
    )
    refused = post(http, "unstage")
    assert (refused.status_code, refused.json()["error_type"]) == (412, "version_conflict")
    assert post(http, "stage", version=current, share=0.1).status_code == 412


def test_publish_staged(started: Started) -> None:
    site, http = started
    current = site.publish("a")
    content = site.adapter("a").read_bytes()
    told = http.put("/v1/adapters/a?stage=0.5", content=content)
    assert told.status_code == 201
    assert (told.json()["outcome"], told.json()["version"]) == ("staged", current)
    assert answers(http) == {current: 5, digest(content): 5}
    assert http.put("/v1/adapters/a?stage=2", content=content).status_code == 422
    missing = http.put("/v1/adapters/b?stage=1", content=site.adapter("b").read_bytes())
    assert missing.status_code == 412, "nothing to be staged beside"


@pytest.mark.parametrize(
    "how", ["worse than the floor", "worse than the current one", "not finite"]
)
def test_what_is_worse_at_once_gets_no_request(started: Started, how: str) -> None:
    site, http = started
    site.engine.say = lambda prompt, versions: "x" if prompt[:-1] == (ord("x"),) else "?"
    current = site.publish("a", canaries=[RIGHT])
    wrong = Canary(prompt="x", expected="y")
    canaries = {
        "worse than the floor": [wrong],
        "worse than the current one": [RIGHT, RIGHT.model_copy(), wrong],
        "not finite": [],
    }[how]
    file = site.adapter("a", canaries=canaries)
    content = file.read_bytes()
    if how == "not finite":
        site.engine.nonfinite.add(digest(content))
    refused = http.put("/v1/adapters/a?stage=1", content=content)
    assert refused.status_code == 422, refused.text
    assert refused.json()["reason"] == ("nonfinite" if how == "not finite" else "canary")
    assert answer(http, "a") == current
    told = http.get("/v1/adapters/a").json()
    assert told["staged"] is None
    assert told["history"] == [current], "nothing of it is left"
    cause = "load" if how == "not finite" else "canary"
    assert (
        site.metric(
            "jumplora_adapter_stage_endings_total", task_id="a", ending="aborted", cause=cause
        )
        == 1
    )
    assert (
        site.metric(
            "jumplora_version_requests_total",
            task_id="a",
            version=digest(content),
            role="staged",
            outcome="ok",
        )
        == 0
    )


def test_names(started: Started) -> None:
    current, other = two(started)
    _, http = started
    assert post(http, "alias", name="champion", version=other).json()["aliases"] == {
        "champion": other
    }
    named = {"champion": other, "current": current, other[:10]: other, current: current}
    for name, version in named.items():
        assert answer(http, f"a@{name}") == version
        assert answers(http, 1, **{"x-adapter-version": name}) == {version: 1}
    chat = {"model": "a@champion", "prompt": "x"}
    assert http.post("/v1/completions", json=chat).headers["x-adapter-version"] == other
    assert http.get("/v1/models/a@champion").status_code == 200
    assert http.get("/v2/models/a/versions/champion").json()["versions"] == [other]
    assert post(http, "alias", name="champion").json()["aliases"] == {}
    for name in ("champion", "staged"):
        gone = http.post("/generate", json={"task_id": f"a@{name}", "inputs": "x"})
        assert (gone.status_code, gone.json()["error_type"]) == (404, "unknown_version")
    for name in ("staged", "deadbeef", "", "a b"):
        assert post(http, "alias", name=name, version=other).status_code == 422


def test_a_header_must_agree(started: Started) -> None:
    current, _ = two(started)
    _, http = started
    body = {"task_id": f"a@{current[:8]}", "inputs": "x"}
    refused = http.post("/generate", json=body, headers={"x-adapter-version": "staged"})
    assert refused.status_code == 422
    assert "disagrees" in refused.json()["error"]


def test_a_list_has_one_version(started: Started) -> None:
    _, other = two(started)
    _, http = started
    post(http, "stage", version=other, share=0.5)
    for _ in range(4):
        asked = http.post("/generate", json={"task_id": "a", "inputs": ["x", "y", "z"]})
        version = asked.headers["x-adapter-version"]
        assert {each["generated_text"][:8] for each in asked.json()} == {version[:8]}
        assert asked.headers.get("x-adapter-stage") == ("staged" if version == other else None)


def test_only_admins_stage(started: Started) -> None:
    two(started)
    _, http = started
    del http.headers["authorization"]
    for what in ("stage", "promote", "unstage", "alias"):
        assert post(http, what).status_code == 401
