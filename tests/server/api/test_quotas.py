"""Quotas of keys on the routes: what counts, how a refusal looks, and that all is freed.

A middleware behind the check of keys gives the caller a quota.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from jumplora_server.access.caller import Caller, Quota
from jumplora_server.access.quotas import Left
from jumplora_server.api.ask import record_of
from jumplora_server.client import Client, Overloaded
from serving import Site, listening, make_site, slow_down, wait_for

KEY = {"authorization": "Bearer a"}
MESSAGES = [{"role": "user", "content": "x"}]


@dataclass
class Keys:
    """Quotas by key id, which a test may change."""

    quotas: dict[str, Quota] = field(default_factory=dict)


class WithQuota:
    """Callers with one of the keys have its quota."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            key = Headers(scope=scope).get("authorization", "").removeprefix("Bearer ")
            if key in self._keys.quotas:
                record_of(scope).caller = Caller(key, quota=self._keys.quotas[key])
        await self._app(scope, receive, send)


@dataclass
class Started:
    """A server, its keys, and a client that shows the key "a"."""

    site: Site
    keys: Keys
    http: httpx.Client
    url: str

    def with_quota(self, **quota: int) -> None:
        """Another quota, of which nothing is used."""
        for keys in ((), ("a", "b")):
            self.site.parts.services.quotas.keep(keys)
        self.keys.quotas["a"] = Quota(**quota)

    @property
    def rows(self) -> int:
        return self.site.parts.services.quotas.rows("a")

    @property
    def left(self) -> Left:
        return self.site.parts.services.quotas.left(Caller("a", quota=self.keys.quotas["a"]))

    def ask(self, inputs: Any = "x", **more: Any) -> httpx.Response:
        return self.http.post("/generate", json={"task_id": "alpha", "inputs": inputs, **more})


@contextmanager
def started_site(site: Site) -> Iterator[Started]:
    keys = Keys()
    site.app.user_middleware.append(Middleware(WithQuota, keys=keys))  # the innermost
    with listening(site) as url, httpx.Client(base_url=url, timeout=20, headers=KEY) as http:
        site.publish("alpha")
        yield Started(site, keys, http, url)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with started_site(make_site(tmp_path_factory.mktemp("site"), allow_base="yes")) as started:
        yield started


@pytest.fixture
def started(server: Started) -> Iterator[Started]:
    yield server
    wait_for(lambda: server.rows == 0)


# What is refused, and how


# Routes that generate: what is sent, and the body of a refusal without its message.
REFUSED = [
    (
        "/generate",
        {"task_id": "alpha", "inputs": "x"},
        {"error_type": "key_quota", "reason": "requests"},
    ),
    (
        "/generate_stream",
        {"task_id": "alpha", "inputs": "x"},
        {"error_type": "key_quota", "reason": "requests"},
    ),
    ("/", {"task_id": "alpha", "inputs": "x"}, {"error_type": "overloaded", "reason": "requests"}),
    (
        "/v1/tasks/alpha/generate",
        {"inputs": "x"},
        {"error_type": "key_quota", "reason": "requests"},
    ),
    (
        "/v1/completions",
        {"model": "alpha", "prompt": "x"},
        {"type": "rate_limit_error", "code": "rate_limit_exceeded", "param": None},
    ),
    (
        "/v1/chat/completions",
        {"model": "alpha", "messages": MESSAGES, "stream": True},
        {"type": "rate_limit_error", "code": "rate_limit_exceeded", "param": None},
    ),
    (
        "/v2/models/alpha/infer",
        {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["x"]}]},
        {},
    ),
    (
        "/tokenize",
        {"prompt": "x"},
        {"type": "rate_limit_error", "code": "rate_limit_exceeded", "param": None},
    ),
    (
        "/detokenize",
        {"tokens": [3]},
        {"type": "rate_limit_error", "code": "rate_limit_exceeded", "param": None},
    ),
]


@pytest.mark.parametrize(("path", "body", "told"), REFUSED, ids=[path for path, *_ in REFUSED])
def test_a_refusal_in_the_form_of_its_dialect(
    started: Started, path: str, body: dict[str, Any], told: dict[str, Any]
) -> None:
    started.with_quota(requests_per_minute=1)
    first, second = (started.http.post(path, json=body) for _ in range(2))
    assert first.status_code == 200, first.text
    assert second.status_code == 429
    assert 56 <= int(second.headers["retry-after"]) <= 58
    assert "x-jumplora-shed" not in second.headers
    error = second.json()["error"]
    message = error.pop("message") if isinstance(error, dict) else error
    assert message.startswith(
        "this key may use 1 prompts a minute, evenly; it is 1 ahead of that: try again in 5"
    )
    assert error == told if isinstance(error, dict) else second.json() == {"error": error, **told}


def test_refusals_are_counted_by_key_and_reason(started: Started) -> None:
    name = "jumplora_key_rejections_total"
    started.with_quota(requests_per_minute=1)
    before = started.site.outcomes("alpha").get("client_quota", 0)
    for _ in range(3):
        started.ask()
    assert started.site.metric(name, key="a", reason="requests") == 2
    wait_for(lambda: started.site.outcomes("alpha").get("client_quota", 0) == before + 2)
    assert started.site.metric("jumplora_admission_rejections_total", reason="task_quota") == 0
    started.site.parts.services.quotas.keep({"b"})
    assert started.site.metric(name, key="a", reason="requests") == 0


def test_the_client_comes_back_when_it_may(started: Started) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        started.with_quota()

    started.with_quota(requests_per_minute=3)
    assert started.ask().status_code == 200
    with Client(started.url, key="a", sleep=sleep) as client:
        assert client.generate("alpha", "x").generated_text
    assert 17 <= waits[0] <= 18


def test_the_client_says_what_was_used(started: Started) -> None:
    started.with_quota(requests_per_minute=1)
    assert started.ask().status_code == 200
    with Client(started.url, key="a") as client, pytest.raises(Overloaded) as refused:
        client.generate("alpha", "x")  # longer than it waits
    assert (refused.value.code, refused.value.reason) == ("key_quota", "requests")


# What never fits


@pytest.mark.parametrize(
    ("quota", "body", "message"),
    [
        (
            {"requests_per_minute": 2},
            {"inputs": ["x", "y", "z"]},
            "inputs: 3 prompts given; this key may send 2 a minute: send fewer at once",
        ),
        (
            {"rows": 5},
            {"inputs": ["x", "y", "z"], "parameters": {"num_beams": 2}},
            "inputs: 3 prompts with 2 answers or beams each make 6 sequences; this key may have 5 "
            "waiting or computed at a time: ask for fewer at once",
        ),
        (
            {"rows": 1},
            {"inputs": "x", "parameters": {"n": 2, "do_sample": True}},
            "inputs: 1 prompts with 2 answers or beams each make 2 sequences; this key may have 1 "
            "waiting or computed at a time: ask for fewer at once",
        ),
        (
            {"tokens_per_minute": 10},
            {"inputs": ["x" * 6, "y" * 3]},
            "inputs: 11 tokens given; this key may use 10 a minute: send less at once",
        ),
    ],
)
def test_what_never_fits(
    started: Started, quota: dict[str, int], body: dict[str, Any], message: str
) -> None:
    started.with_quota(**quota)
    answer = started.ask(**body)
    assert answer.status_code == 422
    assert answer.json() == {"error": message, "error_type": "validation", "reason": "key_quota"}
    assert "retry-after" not in answer.headers
    assert started.rows == 0


def test_the_largest_request_fits(started: Started) -> None:
    started.with_quota(requests_per_minute=3, rows=6, tokens_per_minute=12)
    body = {"inputs": ["xxx", "yyy", "zzz"], "parameters": {"num_beams": 2}}
    assert started.ask(**body).status_code == 200


# What counts


def test_answers_say_what_is_left(started: Started) -> None:
    started.with_quota(requests_per_minute=600, tokens_per_minute=60_000, rows=2)
    whole = started.ask(parameters={"max_new_tokens": 20})
    with started.http.stream(
        "POST", "/generate_stream", json={"task_id": "alpha", "inputs": "x"}
    ) as streamed:
        streamed.read()
    for answer in (whole, streamed):
        assert answer.headers["x-ratelimit-limit-requests"] == "600"
        assert answer.headers["x-ratelimit-limit-tokens"] == "60000"
        assert 18 <= int(answer.headers["x-ratelimit-remaining-requests"]) <= 20
        assert 1950 <= int(answer.headers["x-ratelimit-remaining-tokens"]) <= 2001
    started.with_quota(rows=2)
    assert not [name for name in started.ask().headers if name.startswith("x-ratelimit")]
    assert started.rows == 0


def test_tokens_of_prompts_and_of_answers_count(started: Started) -> None:
    started.with_quota(tokens_per_minute=60)  # one a second, so few come back within the test
    answer = started.ask("12345", parameters={"max_new_tokens": 20})
    used = 6 + answer.json()["details"]["generated_tokens"]
    assert used > 12
    refused = started.ask()
    assert refused.json()["reason"] == "tokens"
    assert used - 4 <= int(refused.headers["retry-after"]) <= used - 2


def test_every_prompt_counts_and_a_list_is_one_whole(started: Started) -> None:
    started.with_quota(requests_per_minute=60, rows=3)
    assert started.ask(["x", "y", "z"]).status_code == 200
    assert started.left.requests == 0
    started.with_quota(rows=3)
    with ThreadPoolExecutor(2) as pool, started.site.engine.steps_held() as gate:
        held = pool.submit(started.ask, "x", parameters={"n": 2, "do_sample": True})
        gate.wait_for_someone()
        assert started.rows == 2
        refused = started.ask(["x", "y"])
        assert (refused.status_code, refused.json()["reason"]) == (429, "rows")
        assert "it has 2 and this request has 2" in refused.json()["error"]
        assert started.rows == 2
    assert held.result().status_code == 200
    assert started.rows == 0


def test_another_key_is_not_concerned(started: Started) -> None:
    started.with_quota(requests_per_minute=1)
    started.keys.quotas["b"] = Quota(requests_per_minute=1)
    assert [started.ask().status_code for _ in range(2)] == [200, 429]
    body = {"task_id": "alpha", "inputs": "x"}
    for headers in ({"authorization": "Bearer b"}, {"authorization": "Bearer c"}):
        assert started.http.post("/generate", json=body, headers=headers).status_code == 200


# However a request ends, its rows are free


def test_after_an_error_nothing_was_used(started: Started) -> None:
    started.with_quota(requests_per_minute=60, tokens_per_minute=6000, rows=4)
    started.site.engine.fail_step = lambda batch: RuntimeError("broken")
    try:
        assert started.ask(["x", "y"]).status_code == 500
    finally:
        started.site.engine.fail_step = lambda batch: None
    assert started.rows == 0
    assert started.left == Left(3, 201)


def test_after_a_deadline(started: Started) -> None:
    started.with_quota(rows=4, requests_per_minute=60)
    with slow_down(started.site):
        answer = started.ask("x" * 60, parameters={"timeout_ms": 100})
    assert answer.status_code == 504
    wait_for(lambda: started.rows == 0)


def test_after_a_hang_up(started: Started) -> None:
    started.with_quota(rows=4)
    with started.site.engine.steps_held() as gate:
        with pytest.raises(httpx.ReadTimeout):
            started.http.post(
                "/generate", json={"task_id": "alpha", "inputs": ["x", "y"]}, timeout=0.3
            )
        gate.wait_for_someone()
        assert started.rows == 2
    wait_for(lambda: started.rows == 0)


def test_after_a_stream_that_is_cut(started: Started) -> None:
    started.with_quota(rows=4)
    body = {"model": "alpha", "prompt": "x" * 60, "n": 3, "temperature": 1, "stream": True}
    with slow_down(started.site):
        with started.http.stream("POST", "/v1/completions", json=body) as answer:
            next(answer.iter_lines())
            assert started.rows == 3
        wait_for(lambda: started.rows == 0)


def test_a_fault_that_is_found_late_costs_the_request_alone(started: Started) -> None:
    started.with_quota(requests_per_minute=60, tokens_per_minute=6000, rows=4)
    assert started.ask("x" * 100).status_code == 413
    assert started.left == Left(2, 201)
    assert started.rows == 0


def test_a_full_queue_costs_nothing(started: Started) -> None:
    started.with_quota(requests_per_minute=60, tokens_per_minute=6000, rows=100)
    admission = started.site.parts.services.loop.admission
    places = [place for n in range(4) for place in admission.reserve(str(n), [0] * 48)]
    places += admission.reserve("other", [0] * 48)
    try:
        answer = started.ask(["x"] * 30)
    finally:
        for place in places:
            place.release()
    assert answer.status_code in (429, 503)
    assert answer.json()["error_type"] in ("queue_full", "task_quota")
    assert started.left == Left(3, 201)
    assert started.rows == 0


def test_after_a_server_that_stops(tmp_path_factory: pytest.TempPathFactory) -> None:
    with started_site(make_site(tmp_path_factory.mktemp("stops"))) as started:
        started.with_quota(requests_per_minute=60, rows=4)
        loop = started.site.parts.services.loop
        with slow_down(started.site), ThreadPoolExecutor(1) as pool:
            asked = pool.submit(started.ask, ["x" * 60, "y" * 60])
            wait_for(lambda: loop.load.rows == 2)
            assert started.rows == 2
            loop.stop()
            assert asked.result().status_code == 503
        assert started.rows == 0
        assert started.ask().json()["error_type"] == "draining"
        assert started.rows == 0
        assert started.left.requests == 3
