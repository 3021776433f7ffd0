"""OpenAI's `/v1/completions` and `/v1/models`, against a server whose engine repeats the prompt."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jumplora_server.core import EngineLimits
from jumplora_server.errors import UnknownTask
from serving import ADMIN_KEY, Site, connected, make_site, slow_down

LIMITS = EngineLimits(max_rows=4, max_source_tokens=64, max_target_tokens=24, end_token_ids=(1,))
Started = tuple[Site, httpx.Client, str]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    site = make_site(tmp_path_factory.mktemp("site"), limits=LIMITS, served_name="t5/small")
    with connected(site) as http:
        version = site.publish("alpha")
        site.publish("short", generation={"max_new_tokens": 3})
        site.publish("drawn", generation={"temperature": 0.7})
        yield site, http, version


def complete(http: httpx.Client, prompt: str | list[str] = "hi", **asked: Any) -> Any:
    body = {"model": "alpha", "prompt": prompt, **asked}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(http: httpx.Client, path: str = "/v1/completions", **body: Any) -> list[Any]:
    """The events before `[DONE]`."""
    body = {"model": "alpha", "stream": True, **body}
    with http.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        *told, done = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
    assert done == "[DONE]"
    return [json.loads(line) for line in told]


def test_the_whole_answer(started: Started) -> None:
    _, http, version = started
    answer = http.post("/v1/completions", json={"model": "alpha", "prompt": "hi"})
    body, said = answer.json(), f"{version[:8]}:hi"
    assert body.pop("created") > 1_600_000_000
    assert body == {
        "id": f"cmpl-{answer.headers['x-request-id']}",
        "object": "text_completion",
        "model": "alpha",
        "system_fingerprint": version[:12],
        "choices": [{"index": 0, "text": said, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": len(said) + 1,
            "total_tokens": len(said) + 4,
        },
    }
    assert answer.headers["x-task-id"] == "alpha"
    assert answer.headers["x-adapter-version"] == version
    assert answer.headers["x-generated-tokens"] == str(len(said) + 1)


def test_choices_are_numbered_by_prompt_then_answer(started: Started) -> None:
    body = complete(started[1], ["a", "b", "c"], n=2, temperature=0.5)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3, 4, 5]
    assert [choice["text"][-1] for choice in body["choices"]] == list("aabbcc")
    assert body["usage"]["prompt_tokens"] == 6, "each prompt once, with its end token"
    assert body["usage"]["completion_tokens"] == 6 * 11


def test_more_tokens_than_the_server_makes_mean_its_limit(started: Started) -> None:
    body = complete(started[1], "x" * 40, max_tokens=10**9)
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == LIMITS.max_target_tokens


def test_no_max_tokens_means_the_adapters_default(started: Started) -> None:
    for body in (
        complete(started[1], model="short"),
        complete(started[1], model="short", max_tokens=None),
    ):
        assert (body["usage"]["completion_tokens"], len(body["choices"][0]["text"])) == (3, 3)
    assert complete(started[1], model="short", max_tokens=5)["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize("stop", [":", [":"], ["no", ":"]], ids=str)
def test_stop(started: Started, stop: Any) -> None:
    (choice,) = complete(started[1], stop=stop)["choices"]
    assert (choice["text"], choice["finish_reason"]) == (started[2][:8], "stop")


@pytest.mark.parametrize("asked", [0, 1])
def test_logprobs(started: Started, asked: int) -> None:
    (choice,) = complete(started[1], logprobs=asked)["choices"]
    logprobs = choice["logprobs"]
    tokens = logprobs["tokens"]
    assert "".join(tokens) == choice["text"]
    assert tokens[-1] == "", "the end token"
    assert logprobs["token_logprobs"] == [-0.5] * len(tokens)
    assert logprobs["text_offset"] == [*range(len(choice["text"])), len(choice["text"])]
    assert logprobs["top_logprobs"] == ([{token: -0.5} for token in tokens] if asked else None)


def test_a_stream_says_what_the_whole_answer_says(started: Started) -> None:
    http = started[1]
    whole = complete(http, "hello", logprobs=1)
    told = events(http, prompt="hello", logprobs=1)
    assert {(e["id"].split("-")[0], e["object"], e["model"]) for e in told} == {
        ("cmpl", "text_completion", "alpha")
    }
    assert len({(event["id"], event["created"]) for event in told}) == 1
    assert not any("usage" in event for event in told)
    choices = [choice for event in told for choice in event["choices"]]
    (answer,) = whole["choices"]
    assert "".join(choice["text"] for choice in choices) == answer["text"]
    assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["stop"]
    for name, value in answer["logprobs"].items():
        assert [one for choice in choices for one in choice["logprobs"][name]] == value


def test_a_streams_usage(started: Started) -> None:
    http, options = started[1], {"include_usage": True}
    *told, last = events(http, prompt=["a", "bc"], stream_options=options)
    assert all(event["usage"] is None for event in told)
    assert (last["choices"], last["usage"]) == ([], complete(http, ["a", "bc"])["usage"])


def test_a_stream_of_several(started: Started) -> None:
    told = events(started[1], prompt=["a", "b"], n=2, temperature=1.0)
    texts = dict.fromkeys(range(4), "")
    for event in told:
        (choice,) = event["choices"]
        texts[choice["index"]] += choice["text"]
    said = started[2][:8]
    assert texts == {0: f"{said}:a", 1: f"{said}:a", 2: f"{said}:b", 3: f"{said}:b"}


def test_an_error_in_mid_stream_is_the_last_event(started: Started) -> None:
    site, http, _ = started
    body = {"model": "alpha", "prompt": "x" * 50, "stream": True, "timeout_ms": 200}
    with slow_down(site, 0.03):
        lines = http.post("/v1/completions", json=body).text.strip().split("\n\n")
    assert len(lines) > 1
    error = json.loads(lines[-1].removeprefix("data: "))["error"]
    assert (error["type"], error["code"], error["param"]) == ("server_error", "timeout", None)
    assert "200" in error["message"] or "deadline" in error["message"]


def test_choices(started: Started) -> None:
    site, http, _ = started
    site.engine.say = lambda prompt, versions: "Sports"
    try:
        asked = {"structured_outputs": {"choice": ["World", "Sports"]}, "temperature": 0.7}
        choices = complete(http, ["a", "b"], **asked)["choices"]
        shy = complete(http, "a", **asked, min_probability=1.0)
    finally:
        site.engine.say = type(site.engine)().say
    # The engine gives each token of what it says -0.1, each other one -3.
    right, wrong = 7 * -0.1, 6 * -3.0
    share = 1 / (1 + math.exp(wrong - right))
    for index, choice in enumerate(choices):
        assert (choice["index"], choice["text"], choice["finish_reason"]) == (
            index,
            "Sports",
            "stop",
        )
        ranking = choice["ranking"]
        assert ranking["choices"] == [
            {
                "text": "Sports",
                "probability": pytest.approx(share),
                "logprob": pytest.approx(right),
            },
            {
                "text": "World",
                "probability": pytest.approx(1 - share),
                "logprob": pytest.approx(wrong),
            },
        ]
        assert ranking["mass"] == pytest.approx(math.exp(right) + math.exp(wrong))
        assert (ranking["temperature"], ranking["calibrated_by"]) == (1.0, "nothing")
        assert ranking["abstained"] is False
    assert shy["usage"]["completion_tokens"] == 0
    assert shy["usage"]["total_tokens"] == shy["usage"]["prompt_tokens"]
    (choice,) = shy["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "stop")
    assert choice["ranking"]["abstained"] is True
    assert choice["ranking"]["choices"][0]["text"] == "Sports"


def test_a_default_task(tmp_path_factory: pytest.TempPathFactory) -> None:
    site = make_site(tmp_path_factory.mktemp("default"), default_task="alpha")
    with connected(site) as http:
        version = site.publish("alpha")
        body = http.post("/v1/completions", json={"prompt": "hi"}).json()
        assert (body["model"], body["system_fingerprint"]) == ("alpha", version[:12])


def test_models(started: Started) -> None:
    site, http, version = started
    backbone = {
        "id": "t5/small",
        "object": "model",
        "created": 0,
        "owned_by": "jumplora",
        "root": "t5/small",
        "parent": None,
    }
    listed = http.get("/v1/models").json()
    assert listed["object"] == "list"
    # Scripts take the first, and the backbone may not be asked for.
    *tasks, last = listed["data"]
    assert last == backbone == http.get("/v1/models/t5/small").json()
    assert [task["id"] for task in tasks] == ["alpha", "drawn", "short"]
    for task in tasks:
        manifest = site.parts.services.residency.status(task["id"]).manifest
        assert manifest is not None
        assert task == {
            "id": task["id"],
            "object": "model",
            "created": 1_767_225_600,
            "owned_by": "jumplora",
            "root": task["id"],
            "parent": "t5/small",
        }
        assert manifest.created == "2026-01-01T00:00:00Z"
        assert http.get(f"/v1/models/{task['id']}").json() == task
    pinned = f"alpha@{version[:8]}"
    assert http.get(f"/v1/models/{pinned}").json()["id"] == pinned
    assert complete(http, model=pinned)["model"] == pinned


@pytest.mark.parametrize("name", ["none", "alpha@00000000", "no/task", "", "t5"])
def test_models_that_are_not_there(started: Started, name: str) -> None:
    http = started[1]
    got = http.get(f"/v1/models/{name}")
    asked = http.post("/v1/completions", json={"model": name, "prompt": "x"})
    for answer in (got, asked):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (404, "model_not_found")
        assert (error["type"], error["param"]) == ("invalid_request_error", "model")
        assert "/v1/adapters" not in error["message"] or "@" in name  # versions are told there
    if name == "none":
        assert error["message"].endswith("; see GET /v1/models")


def test_the_backbone_by_its_served_name(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("base")
    site = make_site(folder, allow_base="yes", served_name="t5")
    with connected(site) as http:
        for name in ("t5", "base"):
            body = complete(http, model=name)
            assert body["choices"][0]["text"] == "base:hi"
            assert (body["model"], body["system_fingerprint"]) == (name, None)
        # A task of that name, which another server may have put into the store, is skipped.
        services = site.parts.services
        services.store.publish(site.adapter("t5"), site.backbone)
        services.residency.notify()
        site.publish("agnews")
        with pytest.raises(UnknownTask, match="bare backbone"):
            services.residency.sync("t5").result(timeout=10)
        assert complete(http, model="t5")["choices"][0]["text"] == "base:hi"
        cards = http.get("/v1/models").json()["data"]
        assert [(c["id"], c["parent"]) for c in cards] == [("agnews", "t5"), ("t5", None)]
        assert http.get("/v1/models/t5").json()["parent"] is None


def test_no_task_is_called_as_the_backbone_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "loads"
    folder.mkdir()
    site = make_site(tmp_path, admin_keys=ADMIN_KEY, served_name="t5", load_folder=folder)
    file = site.adapter("t5")
    shutil.copy(file, folder / "t5.safetensors")
    # As it may have been there before the server starts.
    site.parts.services.store.publish(site.adapter("t5"), site.backbone)
    with connected(site) as http:
        http.headers["authorization"] = f"Bearer {ADMIN_KEY}"
        body = {"lora_name": "t5", "lora_path": "t5.safetensors"}
        answers = [
            http.put("/v1/adapters/t5", content=file.read_bytes()),
            http.post("/v1/load_lora_adapter", json=body),
            http.post("/v1/load_lora_adapter", json={**body, "load_inplace": True}),
        ]
        assert [answer.status_code for answer in answers] == [422, 400, 400]
        assert all("means the bare backbone here" in answer.text for answer in answers)
        assert [each["id"] for each in http.get("/v1/models").json()["data"]] == ["t5"]
    assert "task 't5' of the store is skipped" in caplog.text
