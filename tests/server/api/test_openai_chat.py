"""OpenAI's `/v1/chat/completions`: the text of one user message, for the adapter's template."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serving import Site, connected, make_site

Started = tuple[Site, httpx.Client, str]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    site = make_site(tmp_path_factory.mktemp("site"))
    with connected(site) as http:
        version = site.publish("alpha")
        site.publish("plain", prompt=None)
        yield site, http, version


def chat(http: httpx.Client, content: Any = "hi", **asked: Any) -> httpx.Response:
    messages = [{"role": "user", "content": content}]
    return http.post("/v1/chat/completions", json={"model": "alpha", "messages": messages, **asked})


def test_the_whole_answer(started: Started) -> None:
    _, http, version = started
    answer = chat(http)
    body, said = answer.json(), f"{version[:8]}:do {{text}}|hi>"
    assert body.pop("created") > 1_600_000_000
    assert body == {
        "id": f"chatcmpl-{answer.headers['x-request-id']}",
        "object": "chat.completion",
        "model": "alpha",
        "system_fingerprint": version[:12],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": said, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": len("do {text}|hi>") + 1,
            "completion_tokens": len(said) + 1,
            "total_tokens": len("do {text}|hi>") + len(said) + 2,
        },
    }
    assert answer.headers["x-task-id"] == "alpha"


def test_the_text_is_that_of_the_native_route(started: Started) -> None:
    http = started[1]
    native = http.post("/generate", json={"task_id": "alpha", "text": "a {text} b"}).json()
    message = chat(http, "a {text} b").json()["choices"][0]["message"]
    assert message["content"] == native["generated_text"]


def test_text_parts_are_lines(started: Started) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert (
        chat(started[1], parts).json()["choices"] == chat(started[1], "one\ntwo").json()["choices"]
    )


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_max_tokens(started: Started, name: str) -> None:
    body = chat(started[1], **{name: 4}).json()
    assert body["usage"]["completion_tokens"] == 4
    assert body["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("top", [None, 0, 1])
def test_logprobs(started: Started, top: int | None) -> None:
    body = chat(started[1], "é", logprobs=True, top_logprobs=top, max_tokens=30).json()
    (choice,) = body["choices"]
    tokens = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == choice["message"]["content"]
    assert len(tokens) == body["usage"]["completion_tokens"]
    for token in tokens:
        told = token["bytes"]
        assert told == (list(token["token"].encode()) or None)
        assert token["logprob"] == -0.5
        alone = {name: token[name] for name in ("token", "logprob", "bytes")}
        assert token["top_logprobs"] == ([alone] if top else [])


def test_several_answers(started: Started) -> None:
    choices = chat(started[1], n=3, temperature=0.4, seed=3).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]


def test_beams(started: Started) -> None:
    answer = chat(started[1], num_beams=2, n=2)
    assert answer.status_code == 200, answer.text
    choices = answer.json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    assert len({choice["message"]["content"] for choice in choices}) == 2


def test_a_stream(started: Started) -> None:
    http = started[1]
    whole = chat(http).json()
    body = chat(http, stream=True, stream_options={"include_usage": True}).text
    *lines, done, rest = body.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    *told, last = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert {event["object"] for event in told} == {"chat.completion.chunk"}
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    choices = [event["choices"][0] for event in told]
    assert choices[0] == {
        "index": 0,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": None,
        "finish_reason": None,
    }
    assert all(choice["delta"].keys() == {"content"} for choice in choices[1:])
    text = "".join(choice["delta"]["content"] for choice in choices)
    assert text == whole["choices"][0]["message"]["content"]
    assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["stop"]


def test_every_answer_of_a_stream_begins_with_its_role(started: Started) -> None:
    body = chat(started[1], stream=True, n=2, temperature=1.0, max_tokens=2).text
    told = [json.loads(line.removeprefix("data: ")) for line in body.split("\n\n")[:-2]]
    for number in (0, 1):
        deltas = [e["choices"][0]["delta"] for e in told if e["choices"][0]["index"] == number]
        assert ["role" in delta for delta in deltas] == [True, False, False]


def test_choices(started: Started) -> None:
    _, http, version = started
    options = [f"{version[:8]}:do {{text}}|hi>", "other"]
    body = chat(http, structured_outputs={"choice": options}).json()
    (choice,) = body["choices"]
    assert choice["message"]["content"] == options[0]
    assert [option["text"] for option in choice["ranking"]["choices"]] == options
    assert choice["finish_reason"] == "stop"


def test_abstention_is_an_empty_content(started: Started) -> None:
    asked = {"structured_outputs": {"choice": ["one", "two"]}, "min_mass": 0.9}
    (choice,) = chat(started[1], **asked).json()["choices"]
    assert choice["message"]["content"] == ""
    assert choice["finish_reason"] == "stop"
    assert choice["ranking"]["abstained"] is True
    assert choice["ranking"]["mass"] < 0.9


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "must be a list"),
        ("hi", "must be a list"),
        (["hi"], "item 0 must be an object"),
        ([{"role": "system", "content": "be brief"}, USER], "item 0 is a system message"),
        ([{"role": "developer", "content": "be brief"}, USER], "item 0 is a developer message"),
        ([USER, {"role": "assistant", "content": "yes"}, USER], "3 messages were given"),
        ([USER, USER], "2 messages were given"),
        ([{"role": "assistant", "content": "yes"}], "the role 'assistant' was given"),
        ([{"role": "user"}], "content must be a string"),
        ([{"role": "user", "content": ""}], "content is empty"),
        ([{"role": "user", "content": []}], "content is empty"),
        ([{"role": "user", "content": "\ud800"}], "not valid Unicode"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "'image_url' was given"),
        ([{"role": "user", "content": [{"type": "text", "text": 3}]}], "must have a text"),
        ([{**USER, "tool_calls": []}], "the unknown field 'tool_calls'"),
    ],
    ids=str,
)
def test_what_is_not_one_user_message(started: Started, messages: Any, words: str) -> None:
    content = json.dumps({"model": "alpha", "messages": messages})
    headers = {"content-type": "application/json"}
    answer = started[1].post("/v1/chat/completions", content=content, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "messages")
    assert words in error["message"]
    if "role" in words or "were given" in words or "item 0 is" in words:
        assert "Send the text alone, as one user message" in error["message"]
        assert "/v1/completions" in error["message"]


def test_an_adapter_without_a_template(started: Started) -> None:
    answer = chat(started[1], model="plain")
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "messages")
    assert error["message"].endswith(
        "has no prompt template; give the whole prompt to /v1/completions"
    )
