"""TGI's and LoRAX's dialect: what their clients send and what their models of answers require."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from jumplora_server.api.errors import fault_of
from jumplora_server.api.parameters import NeutralParameters, Parameters
from jumplora_server.api.tgi_writer import COMPATIBLE
from jumplora_server.errors import (
    Draining,
    GenerationFailed,
    InputTooLong,
    InvalidInput,
    KeyQuotaExceeded,
    QueueFull,
    ServerError,
    TaskQuotaExceeded,
)
from serving import Site, connected, make_site, slow_down, wait_for

# What huggingface_hub 0.36.2, lorax-client 0.6.3 and text-generation 0.7.0 send for a prompt alone,
# but for the nulls that huggingface_hub leaves out.
NOTHING_ASKED: dict[str, dict[str, Any]] = {
    "huggingface_hub": {},
    "lorax-client": {
        "adapter_id": "alpha", "adapter_source": None, "merged_adapters": None, "api_token": None,
        "do_sample": False, "max_new_tokens": None, "ignore_eos_token": False,
        "repetition_penalty": None, "return_full_text": False, "stop": [], "seed": None,
        "temperature": None, "top_k": None, "top_p": None, "truncate": None, "typical_p": None,
        "best_of": None, "watermark": False, "details": True, "decoder_input_details": False,
        "return_k_alternatives": None, "response_format": None,
    },
    "text-generation": {
        "do_sample": False, "max_new_tokens": 20, "repetition_penalty": None,
        "frequency_penalty": None, "return_full_text": False, "stop": [], "seed": None,
        "temperature": None, "top_k": None, "top_p": None, "truncate": None, "typical_p": None,
        "best_of": None, "watermark": False, "details": True, "decoder_input_details": False,
        "top_n_tokens": None, "grammar": None,
    },
    "langchain-huggingface": {
        "max_new_tokens": 8, "top_p": 0.95, "typical_p": 0.95, "temperature": 0.8,
        "return_full_text": False, "stop": [], "do_sample": False, "watermark": False,
    },
    "every neutral value": {
        "best_of": 1, "typical_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0,
        "watermark": None, "return_full_text": None, "decoder_input_details": None, "details": None,
        "top_n_tokens": 0, "return_k_alternatives": 0, "adapter_source": "local",
        "api_token": "of another server", "apply_chat_template": False, "adapter_parameters": None,
        "repetition_penalty": 1.0, "n": 1, "do_sample": None,
    },
}  # fmt: skip
NOT_BUILT: dict[str, list[Any]] = {
    "typical_p": [0.5],
    "frequency_penalty": [0.5, -0.5, False, "0"],
    "presence_penalty": [1],
    "watermark": [True, 0, "false"],
    "return_full_text": [True],
    "decoder_input_details": [True],
    "top_n_tokens": [1, 5],
    "return_k_alternatives": [1],
    "grammar": [{"type": "regex", "value": "a|b"}, False],
    "response_format": [{"type": "json_object", "schema": {}}],
    "ignore_eos_token": [True],
    "apply_chat_template": [True],
    "adapter_source": ["hub", "s3", "pbase", ""],
    "adapter_parameters": [{"ids": ["alpha"], "weights": [1.0]}],
    "merged_adapters": [{"ids": ["alpha", "beta"], "weights": [0.5, 0.5], "density": 0.5}],
}


class Prefilled(BaseModel):
    """What all three clients' models require of an answer's details, and of each further answer."""

    class Token(BaseModel):
        id: int
        text: str
        logprob: float
        special: bool

    finish_reason: str
    generated_tokens: int
    prefill: list[Token]
    tokens: list[Token]


class Event(BaseModel):
    """What they require of each event of a stream."""

    class Details(BaseModel):
        finish_reason: str
        generated_tokens: int
        input_length: int

    index: int
    token: Prefilled.Token
    generated_text: str | None = None
    details: Details | None = None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("site"), default_task="alpha")


@pytest.fixture(scope="module")
def http(site: Site) -> Iterator[httpx.Client]:
    with connected(site) as http:
        site.publish("alpha", generation={"temperature": 0.5})
        site.publish("beta")
        yield http


def ask(http: httpx.Client, route: str = "/", **body: Any) -> httpx.Response:
    return http.post(route, json={"inputs": "x", **body})


def events(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line[5:]) for line in answer.text.splitlines() if line.startswith("data:")]


def test_the_answer_to_one_prompt_is_a_list_of_one(http: httpx.Client) -> None:
    parameters = {"adapter_id": "beta", "details": True}
    (told,) = ask(http, stream=False, parameters=parameters).json()
    plain = ask(http, "/generate", parameters=parameters).json()
    assert told["details"].pop("timing").keys() == plain["details"].pop("timing").keys()
    assert told == plain
    details = Prefilled.model_validate(told["details"])
    assert "".join(token.text for token in details.tokens) == told["generated_text"]
    listed = ask(http, inputs=["x", "y"], parameters={"adapter_id": "beta"}).json()
    assert [each["generated_text"][-1] for each in listed] == ["x", "y"]


def test_further_answers(http: httpx.Client) -> None:
    parameters = {"adapter_id": "beta", "do_sample": True, "best_of": 3, "details": True}
    (told,) = ask(http, parameters=parameters).json()
    others = told["details"]["best_of_sequences"]
    assert len([Prefilled.model_validate(other) for other in others]) == 2


@pytest.mark.parametrize("name", NOTHING_ASKED)
def test_what_a_client_sends_that_asks_for_nothing(http: httpx.Client, name: str) -> None:
    given = NOTHING_ASKED[name]
    (told,) = ask(http, model="beta", parameters={**given, "adapter_id": "beta"}).json()
    details = told["details"]
    assert details["task_id"] == "beta"
    assert details["seed"] is None, "nothing is sampled"
    assert details["adapter_version"].startswith(told["generated_text"][:8])


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, values in NOT_BUILT.items() for v in values], ids=repr
)
def test_what_is_not_built_is_refused_by_name(http: httpx.Client, name: str, value: Any) -> None:
    answer = ask(http, parameters={name: value})
    told = answer.json()
    assert (answer.status_code, told["error_type"]) == (422, "validation")
    assert told["error"].startswith(f"parameters.{name}: ")
    assert "leave it out, or give " in told["error"] or name == "typical_p"


def test_every_field_that_asks_for_nothing_is_in_the_tables() -> None:
    assert set(NeutralParameters.model_fields) == {*NOT_BUILT, "api_token"}
    sent = {name for given in NOTHING_ASKED.values() for name in given}
    assert set(NeutralParameters.model_fields) <= sent <= set(Parameters.model_fields)


def test_a_neutral_value_is_documented(site: Site) -> None:
    properties = site.app.openapi()["components"]["schemas"]["Parameters"]["properties"]
    assert properties["watermark"]["enum"] == [None, False]
    assert properties["grammar"]["enum"] == [None]
    assert {"const": 0} in properties["temperature"]["anyOf"]


@pytest.mark.parametrize("route", ["/", "/generate", "/generate_stream"])
@pytest.mark.parametrize("details", [True, None])
def test_a_stream_is_asked_for_in_the_body(
    http: httpx.Client, route: str, details: bool | None
) -> None:
    body: dict[str, Any] = {"adapter_id": "beta", "parameters": {"details": details}}
    *tokens, last = events(ask(http, route, stream=True, **body))
    for event in (*tokens, last):
        Event.model_validate(event)
    assert "".join(event["token"]["text"] for event in (*tokens, last)) == last["generated_text"]
    assert last["details"]["input_length"] == last["details"]["prompt_tokens"] == 2


def test_a_stream_of_the_task_in_the_path(http: httpx.Client) -> None:
    last = events(ask(http, "/v1/tasks/beta/generate", stream=True))[-1]
    assert last["details"]["task_id"] == "beta"


@pytest.mark.parametrize("route", ["/generate_stream", "/v1/tasks/beta/generate_stream"])
def test_a_route_that_always_streams(http: httpx.Client, route: str) -> None:
    assert events(ask(http, route, stream=None))
    answer = ask(http, route, stream=False)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("stream: ")


def test_a_list_of_prompts_is_not_streamed(http: httpx.Client) -> None:
    answer = ask(http, inputs=["x"], stream=True)
    assert answer.status_code == 422
    assert "one prompt" in answer.json()["error"]


def test_the_default_task(http: httpx.Client, site: Site) -> None:
    before = site.outcomes("alpha").get("ok", 0)
    parameters = {"adapter_id": None, "temperature": 0}
    (told,) = ask(http, parameters=parameters).json()
    assert told["details"]["task_id"] == "alpha"
    assert told["details"]["seed"] is None, "the adapter's own temperature does not count"
    wait_for(lambda: site.outcomes("alpha").get("ok", 0) == before + 1)
    assert ask(http, task_id=None).json()["error_type"] == "base_not_allowed"


@pytest.mark.parametrize("default", ["alph", "alpha@01234567", "beta"])
def test_a_default_task_that_is_not_there(
    tmp_path_factory: pytest.TempPathFactory, default: str
) -> None:
    site = make_site(tmp_path_factory.mktemp("site"), default_task=default)
    with connected(site) as http:
        site.publish("alpha")
        for route in ("/", "/generate", "/generate_stream"):
            answer = ask(http, route)
            assert answer.status_code == 404
            assert default.partition("@")[2] in answer.json()["error"]
            assert answer.json()["error"].endswith("so JUMPLORA_DEFAULT_TASK did")
            named = ask(http, route, task_id="gamma").json()["error"]
            assert "DEFAULT" not in named


def test_a_server_that_ends_is_what_clients_call_overloaded(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    site = make_site(tmp_path_factory.mktemp("site"), default_task="alpha")
    with connected(site) as http:
        site.publish("alpha")
        site.parts.services.loop.drain()
        compatible, own = (ask(http, route) for route in ("/", "/generate"))
    assert compatible.status_code == own.status_code == 503
    assert compatible.headers["retry-after"] == own.headers["retry-after"]
    assert own.json()["error_type"] == "draining"
    assert compatible.json() == {**own.json(), "error_type": "overloaded", "reason": "draining"}


@pytest.mark.parametrize("kind", ServerError.__subclasses__(), ids=lambda kind: kind.code)
def test_the_types_of_errors_at_the_compatible_route(kind: type[ServerError]) -> None:
    told = COMPATIBLE.error(fault_of(kind("why")))
    known = {413: "validation", 422: "validation", 429: "overloaded"}
    if kind in (QueueFull, Draining):
        assert told["error_type"] == "overloaded"
    elif kind in (
        InvalidInput,
        InputTooLong,
        TaskQuotaExceeded,
        KeyQuotaExceeded,
        GenerationFailed,
    ):
        assert told["error_type"] == known.get(kind.status, "generation")
    else:
        assert told == {"error": "why", "error_type": kind.code}


def test_a_stream_that_breaks_off(http: httpx.Client, site: Site) -> None:
    with slow_down(site):
        parameters = {"adapter_id": "beta", "timeout_ms": 300}
        last = events(ask(http, inputs="x" * 60, stream=True, parameters=parameters))[-1]
    assert last["error_type"] == "timeout"
    assert last["error"]
