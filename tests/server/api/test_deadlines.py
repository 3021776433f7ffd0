"""Whose deadline it was that passed: the server's limit is its failure, a client's own is none.

Every way on which a deadline ends a request, each with both deadlines.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from jumplora_adapters.manifest import PromptSpec
from jumplora_server.api import answering
from jumplora_server.api.intake import late_of
from jumplora_server.metrics.tasks import Late
from serving import Site, connected, make_site, slow_down, wait_for

LIMIT = 0.4  # JUMPLORA_REQUEST_TIMEOUT, seconds
OWN = {"timeout_ms": 120}
DEADLINES: Mapping[Late, dict[str, int]] = {"client_deadline": OWN, "timeout": {}}
LONG = "x" * 60

Started = tuple[Site, httpx.Client]
Ask = tuple[str, dict[str, Any]]  # a route and a body


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    site = make_site(tmp_path_factory.mktemp("site"), request_timeout=LIMIT, max_inputs=8)
    with connected(site) as http:
        site.publish("alpha", prompt=PromptSpec(template="{text}", options=tuple("abc")))
        yield site, http


@pytest.fixture(params=DEADLINES)
def late(request: pytest.FixtureRequest) -> Late:
    """How a request ends, by whose deadline it has."""
    found: Late = request.param
    return found


def generate(wish: Mapping[str, int], *, stream: bool = False, **more: Any) -> Ask:
    """A request in the server's own form."""
    body = {"task_id": "alpha", "inputs": LONG, **more}
    body["parameters"] = {**wish, **more.get("parameters", {})}
    return "/generate_stream" if stream else "/generate", body


def kserve(wish: Mapping[str, int]) -> Ask:
    tensor = {"name": "prompt", "shape": [2], "datatype": "BYTES", "data": [LONG, LONG]}
    return "/v2/models/alpha/infer", {"inputs": [tensor], "parameters": dict(wish)}


def chat(wish: Mapping[str, int]) -> Ask:
    message = {"role": "user", "content": LONG}
    return "/v1/chat/completions", {"model": "alpha", "messages": [message], **wish}


def completions(wish: Mapping[str, int], *, stream: bool = False) -> Ask:
    body = {"model": "alpha", "prompt": [LONG, LONG], "stream": stream, **wish}
    return "/v1/completions", body


WAYS: Mapping[str, tuple[Callable[[Mapping[str, int]], Ask], int]] = {
    "one body": (generate, 1),
    "a list": (lambda wish: generate(wish, inputs=[LONG] * 3), 3),
    "several answers": (
        lambda wish: generate(
            wish, parameters={"do_sample": True, "best_of": 2, "num_return_sequences": 2}
        ),
        2,
    ),
    "a stream": (lambda wish: generate(wish, stream=True), 1),
    "choices": (
        lambda wish: generate(
            wish,
            inputs="x",
            parameters={"choices": [f"{n:03}" + "y" * 20 for n in range(60)]},
        ),
        1,
    ),
    "completions": (completions, 2),
    "a stream of several": (lambda wish: completions(wish, stream=True), 2),
    "chat": (chat, 1),
    "kserve": (kserve, 2),
    "tgi": (
        lambda wish: ("/", {"inputs": LONG, "parameters": {"adapter_id": "alpha", **wish}}),
        1,
    ),
}


def ended(site: Site, before: Mapping[str, float]) -> dict[str, float]:
    """How the requests since `before` ended."""
    now = site.outcomes("alpha")
    return {name: n - before.get(name, 0) for name, n in now.items() if n > before.get(name, 0)}


@pytest.mark.parametrize("way", WAYS)
def test_between_two_steps(started: Started, way: str, late: Late) -> None:
    site, http = started
    made, sequences = WAYS[way]
    route, body = made(DEADLINES[late])
    before, timed = site.outcomes("alpha"), timed_requests(site)
    with slow_down(site, 0.02):
        answer = http.post(route, json=body)
    assert "deadline" in answer.text
    wait_for(lambda: ended(site, before) == {late: sequences})
    # What a client cut short at once says nothing of how long answers take.
    assert timed_requests(site) - timed == (sequences if late == "timeout" else 0)


def timed_requests(site: Site) -> float:
    return site.metric("jumplora_request_duration_seconds_count", task_id="alpha")


@pytest.mark.parametrize("is_stream", [False, True], ids=["one body", "a stream"])
def test_in_the_queue(started: Started, late: Late, is_stream: bool) -> None:
    site, http = started
    before = site.outcomes("alpha")
    route, body = generate(DEADLINES[late], stream=is_stream)
    with ThreadPoolExecutor(2) as pool:
        with site.engine.steps_held() as gate:
            first = pool.submit(http.post, route, json=body)
            gate.wait_for_someone()
            second = pool.submit(http.post, route, json=body)
            wait_for(lambda: site.parts.services.loop.admission.requests == 1)
            threading.Event().wait(LIMIT + 0.1)  # the engine finds both of them late
        assert "deadline" in first.result(timeout=10).text  # it has its first token
        assert second.result(timeout=10).status_code == 504
    wait_for(lambda: ended(site, before) == {late: 2})


def test_before_its_text_was_read(started: Started, late: Late) -> None:
    site, http = started
    before = site.outcomes("alpha")
    route, body = generate(DEADLINES[late])
    site.parts.services.lanes.small._thread.submit(threading.Event().wait, LIMIT + 0.1)
    answer = http.post(route, json=body)
    assert (answer.status_code, answer.json()["error_type"]) == (504, "timeout")
    assert "before" in answer.json()["error"]
    wait_for(lambda: ended(site, before) == {late: 1})


@pytest.mark.parametrize("is_stream", [False, True], ids=["one body", "a stream"])
def test_in_a_step_that_hangs(
    started: Started, late: Late, is_stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "_LAST_RESORT_SECONDS", 0.1)
    site, http = started
    before = site.outcomes("alpha")
    route, body = generate(DEADLINES[late], stream=is_stream)
    with site.engine.steps_held():
        assert http.post(route, json=body).status_code == 504
    wait_for(lambda: ended(site, before) == {late: 1})


@pytest.mark.parametrize(
    ("asked", "late"),
    [(None, "timeout"), (60.0, "timeout"), (59.999, "client_deadline"), (0.001, "client_deadline")],
)
def test_a_deadline_is_the_clients_own_below_the_servers(asked: float | None, late: Late) -> None:
    assert late_of(asked, 60.0) == late
