"""Canaries over HTTP: a good version, a broken one that is refused, and what the page shows."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from adapter_requests import ADMIN, Started, answer, digest, files, put
from fakes import say
from jumplora_adapters.manifest import Canary
from serving import connected, make_site, wait_for

CANARIES = (
    Canary(prompt="who won", expected="Sports"),
    Canary(prompt="who pays", expected="Business"),
)


@pytest.fixture
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    # The watcher would try a refused version once more where it noticed the publish by itself.
    site = make_site(tmp_path_factory.mktemp("site"), watch_seconds=60.0)
    with connected(site, headers=ADMIN) as http:
        yield site, http


def accuracy(http: httpx.Client, task: str) -> dict[str, float]:
    """The page's canary accuracy of a task, by version."""
    name = f'jumplora_adapter_canary_accuracy{{task_id="{task}",version="'
    lines = http.get("/metrics").text.splitlines()
    found = [line.removeprefix(name) for line in lines if line.startswith(name)]
    return {line[:12]: float(line.split()[-1]) for line in found}


def test_a_broken_version_is_refused_and_the_old_one_answers(started: Started) -> None:
    site, http = started
    contents = [site.adapter("news", canaries=CANARIES).read_bytes() for _ in range(3)]
    good, broken, better = map(digest, contents)

    def generated(prompt: tuple[int, ...], versions: tuple[str, ...]) -> str:
        asked = "".join(map(chr, prompt[:-1]))
        known = {canary.prompt: canary.expected for canary in CANARIES}
        return known.get(asked, "?") if broken not in versions else "Weather"

    site.engine.say = generated
    assert put(http, "news", contents[0]).status_code == 201
    assert accuracy(http, "news") == {good[:12]: 1.0}
    before = files(site)

    refused = put(http, "news", contents[1])
    told = refused.json()
    assert (refused.status_code, told["error_type"]) == (422, "adapter_refused"), told
    assert told["reason"] == "canary"
    assert "0 of its 2 canaries were right" in told["error"]
    assert "the first wrong one is number 1 of its manifest's" in told["error"]
    assert files(site) == before, "it was taken back"

    status = http.get("/v1/adapters/news").json()
    assert (status["version"], status["state"], status["degraded"]) == (good, "READY", False)
    assert answer(http, "news") == good
    assert accuracy(http, "news") == {good[:12]: 1.0}
    page = http.get("/metrics").text
    assert 'jumplora_adapter_load_failures_total{code="canary",task_id="news"} 1.0' in page

    assert put(http, "news", contents[2]).status_code == 201
    assert accuracy(http, "news") == {better[:12]: 1.0}
    assert http.post("/v1/adapters/news/rollback").json()["version"] == good


def test_one_that_was_published_into_the_store_degrades_the_task(started: Started) -> None:
    site, http = started
    good = site.publish("news")
    bad = site.publish("news", canaries=CANARIES)
    status = http.get("/v1/adapters/news").json()
    assert (status["version"], status["desired"], status["degraded"]) == (good, bad, True)
    assert status["failure"]["code"] == "canary"
    assert answer(http, "news") == good
    assert accuracy(http, "news") == {}
    asked = http.post("/generate", json={"task_id": f"news@{bad}", "inputs": "x"})
    assert (asked.status_code, asked.json()["reason"]) == (503, "canary")


def test_the_floor_is_the_operators(tmp_path_factory: pytest.TempPathFactory) -> None:
    site = make_site(tmp_path_factory.mktemp("site"), canary_floor=0.0)
    site.engine.say = lambda prompt, versions: (
        "sports" if prompt[:-1] == tuple(map(ord, "who won")) else say(prompt, versions)
    )
    with connected(site, headers=ADMIN) as http:
        content = site.adapter("news", canaries=CANARIES).read_bytes()
        assert put(http, "news", content).status_code == 201
        assert accuracy(http, "news") == {digest(content)[:12]: 0.5}


def test_what_the_canaries_were_answered_is_shown(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    site = make_site(tmp_path_factory.mktemp("site"), canary_floor=0.5)
    long = "Sport" + "s" * 215
    asked = (
        Canary(prompt="who won", expected=long),
        Canary(prompt="x" * 100, expected="Business"),  # more than this server reads
        Canary(prompt="who pays", expected="business"),
    )
    replies = {"who won": long.upper(), "who pays": "Business"}
    site.engine.say = lambda prompt, versions: replies.get("".join(map(chr, prompt[:-1])), "?")
    generation = {"max_new_tokens": 250}
    content = site.adapter("news", canaries=asked, generation=generation).read_bytes()
    with connected(site, headers=ADMIN) as http:
        published = put(http, "news", content)
        assert published.status_code == 201, published.text
        found = published.json()["canaries"]
        assert http.get("/v1/adapters/news").json()["canaries"] == found
    cut = long[:199] + "…"
    assert found == [
        {"prompt": "who won", "expected": cut, "got": cut.upper(), "is_right": True},
        {"prompt": "x" * 100, "expected": "Business", "got": None, "is_right": False},
        {"prompt": "who pays", "expected": "business", "got": "Business", "is_right": True},
    ]


def test_canaries_that_were_not_asked_yet_have_no_answer(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # A budget for one: the second is registered, and is loaded when it is asked for.
    site = make_site(tmp_path_factory.mktemp("site"), adapter_budget_bytes=10_000)
    site.engine.nbytes = lambda adapter: 9_900
    store = site.parts.services.store
    for task in ("a", "b"):
        store.publish(site.adapter(task, canaries=CANARIES[:1]), site.backbone)
    site.engine.say = lambda prompt, versions: "Sports"
    with connected(site, headers=ADMIN) as http:
        wait_for(lambda: site.parts.services.residency.settled)
        first, second = (http.get(f"/v1/adapters/{task}").json() for task in ("a", "b"))
        assert (first["state"], second["state"]) == ("READY", "COLD")
        (known,), (unknown,) = first["canaries"], second["canaries"]
        assert (known["got"], known["is_right"]) == ("Sports", True)
        assert (unknown["got"], unknown["is_right"]) == (None, None)
        assert answer(http, "b") == second["version"]
        (known,) = http.get("/v1/adapters/b").json()["canaries"]
        assert (known["got"], known["is_right"]) == ("Sports", True)
