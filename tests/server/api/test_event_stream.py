"""POST /generate_stream over a real connection: events, half characters, hang-ups."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fakes import EOS
from serving import Site, connected, make_site, slow_down, wait_for

Started = tuple[Site, httpx.Client, str]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    site = make_site(tmp_path_factory.mktemp("site"), bytes_as_text=True)
    with connected(site) as http:
        yield site, http, site.publish("alpha")


def stream(http: httpx.Client, path: str = "/generate_stream", **body: Any) -> list[Any]:
    with http.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line[5:]) for line in answer.iter_lines() if line.startswith("data:")]


def test_events(started: Started) -> None:
    _, http, version = started
    *events, last = stream(http, task_id="alpha", inputs="hi")
    said = f"{version[:8]}:hi"
    assert [event["index"] for event in [*events, last]] == list(range(len(said) + 1))
    assert "".join(event["token"]["text"] for event in events) == said
    assert all(event["generated_text"] is event["details"] is None for event in events)
    assert last["token"] == {"id": EOS, "text": "", "logprob": -0.5, "special": True}
    assert last["generated_text"] == said
    timing = last["details"].pop("timing")
    parts = [timing[f"{part}_seconds"] for part in ("queue", "encode", "decode")]
    assert 0 < sum(parts) <= timing["total_seconds"] + 1e-9
    assert last["details"] == {
        "finish_reason": "eos_token",
        "prompt_tokens": 3,
        "generated_tokens": len(said) + 1,
        "seed": None,
        "task_id": "alpha",
        "adapter_version": version,
        "score": pytest.approx(-0.5),
        "prefill": [],
        "tokens": [],
        "best_of_sequences": [],
        "input_length": 3,
    }


def test_headers(started: Started) -> None:
    _, http, version = started
    body = {"task_id": "alpha", "inputs": "hi"}
    with http.stream("POST", "/generate_stream", json=body) as answer:
        headers = answer.headers
    assert headers["x-adapter-version"] == version
    assert headers["x-task-id"] == "alpha"
    assert headers["x-prompt-tokens"] == "3"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-request-id"]


def test_the_path(started: Started) -> None:
    events = stream(started[1], "/v1/tasks/alpha/generate_stream", inputs="hi")
    assert events[-1]["details"]["task_id"] == "alpha"


def test_half_characters_are_held_back(started: Started) -> None:
    # The fake engine repeats the prompt token by token; here a token is one byte of UTF-8.
    latin = "é→".encode().decode("latin-1")
    events = stream(started[1], task_id="alpha", inputs=latin)
    texts = [event["token"]["text"] for event in events[9:-1]]
    assert texts == ["", "é", "", "", "→"]
    assert events[-1]["generated_text"].endswith(":é→")


def test_one_token_is_one_event(started: Started) -> None:
    (event,) = stream(started[1], task_id="alpha", inputs="x", parameters={"max_new_tokens": 1})
    assert event["details"]["finish_reason"] == "length"


def test_events_come_as_they_are_made(started: Started) -> None:
    site, http, _ = started
    body = {"task_id": "alpha", "inputs": "hi"}
    with slow_down(site), http.stream("POST", "/generate_stream", json=body) as answer:
        lines = (line for line in answer.iter_lines() if line)
        next(lines)
        steps = site.engine.steps
        next(lines)
        next(lines)
        next(lines)
        assert steps < site.engine.steps


def test_an_error_before_the_first_token_has_its_status(started: Started) -> None:
    site, http, _ = started
    site.engine.fail_step = lambda batch: RuntimeError("broken")
    try:
        answer = http.post("/generate_stream", json={"task_id": "alpha", "inputs": "x"})
    finally:
        site.engine.fail_step = lambda batch: None
    assert (answer.status_code, answer.json()["error_type"]) == (500, "generation")


def test_a_deadline_in_mid_stream_is_the_last_event(started: Started) -> None:
    site, http, _ = started
    with slow_down(site):
        parameters = {"timeout_ms": 300}
        events = stream(http, task_id="alpha", inputs="x" * 60, parameters=parameters)
    assert events[-1]["error_type"] == "timeout"
    assert len(events) > 1


def test_a_hang_up_frees_the_row(started: Started) -> None:
    site, http, _ = started
    before = site.outcomes("alpha").get("client_disconnect", 0)
    body = {"task_id": "alpha", "inputs": "x" * 60}
    with slow_down(site):
        with http.stream("POST", "/generate_stream", json=body) as answer:
            next(answer.iter_lines())
        steps = site.engine.steps
        wait_for(lambda: site.outcomes("alpha").get("client_disconnect", 0) == before + 1)
        assert site.engine.steps < steps + 30
    assert not site.engine.live
    assert site.parts.services.residency.status("alpha").in_flight == 0


def test_a_hang_up_before_the_first_token(started: Started) -> None:
    site, http, _ = started
    before = site.outcomes("alpha").get("client_disconnect", 0)
    body = {"task_id": "alpha", "inputs": "x"}
    with site.engine.steps_held() as gate:
        with pytest.raises(httpx.ReadTimeout):
            http.post("/generate_stream", json=body, timeout=0.2)
        gate.wait_for_someone()
        wait_for(lambda: http.get("/livez").status_code == 200)
    with slow_down(site):
        wait_for(lambda: site.outcomes("alpha").get("client_disconnect", 0) == before + 1)
