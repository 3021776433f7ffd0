"""What OpenAI's routes take, what they refuse by name, and in which form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from factories import random_adapter, toy_backbone
from jumplora_adapters.manifest import Manifest
from jumplora_server.access.caller import ANYBODY
from jumplora_server.api.errors import server_error_response, validation_message
from jumplora_server.api.neutral import Neutral
from jumplora_server.api.openai.completions import to_ask
from jumplora_server.api.openai.errors import FORMS
from jumplora_server.api.openai.fields import Ignored
from jumplora_server.api.openai.requests import ChatRequest, CompletionRequest, OpenAiRequest
from jumplora_server.api.wishes import make_wishes
from jumplora_server.core import Sampling
from jumplora_server.errors import QueueFull, ServerError
from serving import Site, connected, make_site

KEY = "key-of-tests"
PLAIN, _ = random_adapter(toy_backbone())
PATHS: dict[str, type[OpenAiRequest]] = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
}
WANTED: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": "alpha", "prompt": "x"},
    "/v1/chat/completions": {
        "model": "alpha",
        "messages": [{"role": "user", "content": "x"}],
    },
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("site"), api_keys=KEY, max_body_bytes=4096)


@pytest.fixture(scope="module")
def http(site: Site) -> Iterator[httpx.Client]:
    with connected(site, headers={"authorization": f"Bearer {KEY}"}) as http:
        site.publish("alpha")
        yield http


def sampling(asked: dict[str, Any], site: Site, **generation: Any) -> Sampling:
    body = CompletionRequest.model_validate({"prompt": "x", **asked})
    services = site.parts.services
    manifest = Manifest.model_validate({**PLAIN.model_dump(), "generation": generation})
    ask = to_ask(services, ANYBODY, "alpha", body)
    return make_wishes(ask, manifest, services.limits, max_beams=4).samplings[0]


DRAWN = {"temperature": 0.5, "top_p": 0.8, "top_k": 7, "seed": 3}


@pytest.mark.parametrize(
    ("asked", "generation", "expected"),
    [
        ({}, {}, {"mode": "greedy"}),
        ({"seed": 3, "top_p": 1, "top_k": -1}, {}, {"mode": "greedy"}),
        ({}, {"temperature": 0.3}, {"mode": "sample", "temperature": 0.3}),
        ({"temperature": 0}, {"temperature": 0.3}, {"mode": "greedy"}),
        ({**DRAWN, "temperature": 0}, {}, {"mode": "greedy", "top_p": None, "top_k": None}),
        (DRAWN, {}, {"mode": "sample", **DRAWN}),
        ({"temperature": 1, "top_p": 1}, {"top_p": 0.5}, {"mode": "sample", "top_p": 1.0}),
        ({"top_p": 0.5}, {}, {"mode": "sample", "top_p": 0.5}),
        ({"stop": "a"}, {}, {"stop": ("a",)}),
        ({"stop": []}, {"stop": ("a",)}, {"stop": ()}),
        ({"min_tokens": 2, "repetition_penalty": 2}, {}, {"min_new_tokens": 2}),
        ({"best_of": 1, "n": 1}, {"num_beams": 2}, {"mode": "greedy"}),
    ],
    ids=str,
)
def test_how_answers_are_made(
    site: Site, asked: dict[str, Any], generation: dict[str, Any], expected: dict[str, Any]
) -> None:
    made = sampling(asked, site, **generation)
    assert {name: getattr(made, name) for name in expected} == expected


def neutral_values(path: str) -> dict[str, tuple[object, ...]]:
    """The values that ask for nothing, of each field that has only these."""
    return {
        name: mark.values
        for name, field in PATHS[path].model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Neutral)
    }


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path in PATHS for name in neutral_values(path)]
)
def test_neutral_values_are_taken_and_others_refused(
    http: httpx.Client, path: str, name: str
) -> None:
    for value in neutral_values(path)[name]:
        answer = http.post(path, json={**WANTED[path], "max_tokens": 1, name: value})
        assert answer.status_code == 200, answer.text
    answer = http.post(path, json={**WANTED[path], name: {"some": "thing"}})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, name)
    assert error["message"].startswith(f"{name}: ")
    assert "; leave it out, or give " in error["message"]


@pytest.mark.parametrize("path", PATHS)
def test_what_has_no_effect_may_be_anything(http: httpx.Client, path: str) -> None:
    ignored = [
        name
        for name, field in PATHS[path].model_fields.items()
        if field.metadata == list(get_args(Ignored)[1:])
    ]
    assert {"user", "metadata", "store", "service_tier"} <= {*ignored}
    asked = {name: {"any": ["thing"]} for name in ignored}
    assert http.post(path, json={**WANTED[path], **asked}).status_code == 200


@pytest.mark.parametrize(
    ("path", "asked", "param", "words"),
    [
        ("/v1/completions", {"echo": True}, "echo", "true was given"),
        ("/v1/completions", {"suffix": "x"}, "suffix", '"x" was given'),
        ("/v1/completions", {"logit_bias": {"5": 1}}, "logit_bias", "leave it out, or give {}"),
        ("/v1/completions", {"presence_penalty": 0.5}, "presence_penalty", "repetition_penalty"),
        ("/v1/completions", {"use_beam_search": True}, "use_beam_search", "num_beams asks"),
        ("/v1/completions", {"prompt": [1, 2]}, "prompt", "token ids are not taken"),
        ("/v1/completions", {"prompt": [[1], [2]]}, "prompt", "token ids are not taken"),
        ("/v1/completions", {"prompt": ""}, "prompt", "is empty"),
        ("/v1/completions", {"prompt": "x" * 90}, "prompt", "set truncate_prompt_tokens to 64"),
        ("/v1/completions", {"logprobs": 2}, "logprobs", "alternatives are not built"),
        ("/v1/completions", {"max_tokens": 0}, "max_tokens", "must be at least 1"),
        ("/v1/completions", {"temperature": 0.001}, "temperature", "0 or 0.01 to 100 is allowed"),
        ("/v1/completions", {"temperature": -1}, "temperature", "is allowed"),
        ("/v1/completions", {"n": 2}, "n", "set temperature over 0, or set num_beams"),
        ("/v1/completions", {"n": 2, "temperature": 0}, "n", "set temperature over 0"),
        ("/v1/completions", {"stop": ["a"] * 5}, "stop", "at most 4"),
        ("/v1/completions", {"stop": ""}, "stop.0", "at least 1"),
        ("/v1/completions", {"min_tokens": 5, "max_tokens": 4}, "min_tokens", "max_tokens, 4"),
        ("/v1/completions", {"best_of": 1, "n": 2, "temperature": 1}, "n", "best_of, 1"),
        (
            "/v1/completions",
            {"best_of": 2, "temperature": 1, "stream": True},
            "best_of",
            "before the best are known",
        ),
        ("/v1/completions", {"num_beams": 2, "stream": True}, "num_beams", "before the best"),
        ("/v1/completions", {"truncate_prompt_tokens": 65}, "truncate_prompt_tokens", "65"),
        ("/v1/completions", {"max_token": 5}, "max_token", "did you mean max_tokens?"),
        *(
            (path, {name: ["a", "b"]}, name, "did you mean structured_outputs.choice?")
            for path in ("/v1/completions", "/v1/chat/completions")
            for name in ("choice", "choices", "guided_choice")
        ),
        (
            "/v1/completions",
            {"messages": []},
            "messages",
            "give prompt; /v1/chat/completions takes messages",
        ),
        (
            "/v1/chat/completions",
            {"prompt": "x"},
            "prompt",
            "give messages; /v1/completions takes prompt",
        ),
        ("/v1/completions", {"\ud800": 5}, None, "is not a field of this route"),
        ("/v1/completions", {"stream_options": {"x": 1}}, "stream_options", "is not a field"),
        ("/v1/completions", {"min_mass": 0.5}, "min_mass", "without structured_outputs.choice"),
        ("/v1/completions", {"model": 3}, "model", "must be a string"),
        ("/v1/chat/completions", {"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "4"),
        ("/v1/chat/completions", {"top_logprobs": 1}, "top_logprobs", "set logprobs to true"),
        (
            "/v1/chat/completions",
            {"logprobs": True, "top_logprobs": 2},
            "top_logprobs",
            "alternatives",
        ),
        ("/v1/chat/completions", {"tools": [{"type": "function"}]}, "tools", "not built here"),
        (
            "/v1/chat/completions",
            {"response_format": {"type": "json_object"}},
            "response_format",
            "structured_outputs.choice",
        ),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_what_is_refused_by_name(
    http: httpx.Client, path: str, asked: dict[str, Any], param: str | None, words: str
) -> None:
    content = json.dumps({**WANTED[path], **asked})
    answer = http.post(path, content=content, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert (error["param"], words in error["message"]) == (param, True), error
    assert error["code"] == ("context_length_exceeded" if "x" * 90 in content else "validation")


CHOICE = {"choice": ["one", "two"]}


@pytest.mark.parametrize(
    ("asked", "param", "words"),
    [
        ({"structured_outputs": CHOICE, "n": 2}, "n", "a choice is one answer"),
        ({"structured_outputs": CHOICE, "num_beams": 2}, "num_beams", "a choice is one answer"),
        ({"structured_outputs": CHOICE, "stream": True}, "stream", "comes whole"),
        ({"structured_outputs": CHOICE, "logprobs": 1}, "logprobs", "ranking"),
        ({"structured_outputs": ["one"]}, "structured_outputs", "must be an object"),
        ({"structured_outputs": {"json": {}}}, "structured_outputs", "'json' is not built here"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs", "1 to 256"),
        ({"structured_outputs": {"choice": "one"}}, "structured_outputs", "list of texts"),
        ({"structured_outputs": {"choice": [1]}}, "structured_outputs", "choice[0] must be"),
        ({"structured_outputs": {"choice": ["a", "A"]}}, "structured_outputs", "choice[1]"),
        ({"structured_outputs": {"choice": True}}, "structured_outputs.choice", "no options"),
        ({"structured_outputs": CHOICE, "min_mass": 2}, "min_mass", "must be at most 1"),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_choices_that_are_refused(
    http: httpx.Client, asked: dict[str, Any], param: str, words: str
) -> None:
    answer = http.post("/v1/completions", json={**WANTED["/v1/completions"], **asked})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert words in error["message"]


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=3)  # half surrogate pairs too
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | ANY_TEXT,
    lambda some: st.lists(some, max_size=3) | st.dictionaries(ANY_TEXT, some, max_size=2),
    max_leaves=4,
)


@given(st.data(), st.sampled_from(sorted(PATHS)))
def test_a_body_is_read_or_refused(site: Site, data: st.DataObject, path: str) -> None:
    kind = PATHS[path]
    names = st.sampled_from(sorted(kind.model_fields)) | ANY_TEXT
    asked = data.draw(st.dictionaries(names, JSON, max_size=4))
    try:
        kind.model_validate({**WANTED[path], **asked})
    except ValidationError as error:
        message = validation_message(error.errors(include_url=False))
        assert any(message.startswith(ascii(name)[1:-1]) for name in asked), message


def test_other_routes_say_what_there_is(http: httpx.Client) -> None:
    answer = http.post("/v1/responses", json={"model": "alpha", "input": "x"})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (404, "invalid_request_error")
    assert "no route POST /v1/responses" in error["message"]
    assert "POST /v1/chat/completions, POST /v1/completions, GET /v1/models" in error["message"]


def test_what_is_refused_before_the_body_is_read(http: httpx.Client) -> None:
    answer = http.get("/v1/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["code"] == "method_not_allowed"
    for path in ("/v1/completions", "/v1/nothing", "/v1/models"):
        answer = http.get(path, headers={"authorization": "Bearer other-key"})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    answer = http.post("/v1/completions", json={"prompt": "x" * 5000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    answer = http.post("/v1/completions", content=b"{", headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, None)


@pytest.mark.parametrize("path", ["/v1/adapters/none", "/v1/tasks/none/nothing", "/nowhere"])
def test_other_paths_have_the_servers_own_form(http: httpx.Client, path: str) -> None:
    assert http.get(path).json().keys() == {"error", "error_type"}


def test_the_header_must_agree(http: httpx.Client) -> None:
    def status(body: dict[str, Any], task: str) -> int:
        headers = {"x-task-id": task}
        return http.post(
            "/v1/completions", json={"prompt": "x", **body}, headers=headers
        ).status_code

    assert status({}, "alpha") == 200
    assert status({"model": None}, "alpha") == 200
    assert status({"model": "alpha"}, "alpha") == 200
    assert status({"model": "beta"}, "alpha") == 400


def test_no_model(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json={"prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
    assert "GET /v1/models" in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", [ServerError, *ServerError.__subclasses__()])
def test_every_error_in_the_form(kind: type[ServerError]) -> None:
    app = FastAPI()
    app.state.error_forms = FORMS
    scope = {"route": None, "path": "/v1/completions", "app": app}
    response = server_error_response(scope, kind("field: what and why", retry_after=2.2))
    ours = {"validation", "adapter_refused", "input_too_long"}
    status = 400 if kind.code in ours else kind.status
    assert response.status_code == status
    error = json.loads(bytes(response.body))["error"]
    types = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    others = "server_error" if status >= 500 else "invalid_request_error"
    assert error["type"] == types.get(status, others)
    assert error["message"] == "field: what and why"
    assert response.headers.get("retry-after") == ("3" if status in (429, 503) else None)


def test_a_full_queue_is_503_with_retry_after(http: httpx.Client, site: Site) -> None:
    admission = site.parts.services.loop.admission
    with pytest.MonkeyPatch.context() as patched:

        def full(*_: object, **__: object) -> object:
            raise QueueFull("full", retry_after=7)

        patched.setattr(admission, "reserve", full)
        answer = http.post("/v1/completions", json=WANTED["/v1/completions"])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert answer.json()["error"]["code"] == "queue_full"
