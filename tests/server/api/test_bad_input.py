"""Everything that may be wrong with a request, and the status, code and words of the answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving import Site, connected, make_site, wait_for

ROUTES = ["/", "/generate", "/generate_stream"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(
        tmp_path_factory.mktemp("site"),
        max_inputs=4,
        max_body_bytes=4096,
        max_text_bytes=1000,
        request_timeout=20.0,
    )


@pytest.fixture(scope="module")
def http(site: Site) -> Iterator[httpx.Client]:
    with connected(site) as http:
        site.publish("agnews")
        site.publish("raw", prompt=None)
        yield http


def task(**body: Any) -> dict[str, Any]:
    return {"task_id": "agnews", "inputs": "x", **body}


def parameters(**values: Any) -> dict[str, Any]:
    return task(parameters=values)


Case = tuple[Any, int, str, list[str]]
CASES: dict[str, Case] = {
    "unknown task": (
        task(task_id="agnew"),
        404,
        "unknown_task",
        ["'agnew'", "agnews"],
    ),
    "unknown version": (task(task_id="agnews@00000000"), 404, "unknown_version", ["'00000000'"]),
    "short version": (task(task_id="agnews@0000"), 422, "validation", ["'0000'", "8 to 64"]),
    "parent folder": (task(task_id="../etc/passwd"), 422, "validation", ["'../etc/passwd'"]),
    "absolute path": (task(task_id="/etc/passwd"), 422, "validation", ["1 to 64 letters"]),
    "odd characters": (task(task_id="a\x00\u202eb"), 422, "validation", ["\\x00"]),
    "long name": (task(task_id="a" * 65), 422, "validation", ["1 to 64"]),
    "empty name": (task(task_id=""), 422, "validation", ["1 to 64"]),
    "no task": ({"inputs": "x"}, 422, "validation", ["task_id", "missing"]),
    "aliases disagree": (task(model="raw"), 422, "validation", ["task_id", "model", "'raw'"]),
    "base by name": (task(task_id="base"), 403, "base_not_allowed", ["JUMPLORA_ALLOW_BASE"]),
    "base by null": (task(task_id=None), 403, "base_not_allowed", ["JUMPLORA_ALLOW_BASE"]),
    "both": (task(text="y"), 422, "validation", ["inputs", "text", "both"]),
    "neither": ({"task_id": "agnews"}, 422, "validation", ["inputs", "text", "neither"]),
    "unknown field": (task(flow=True), 422, "validation", ["'flow'", "allowed are task_id"]),
    "unknown parameter": (
        parameters(typically=0.9),
        422,
        "validation",
        ["parameters", "'typically'", "did you mean typical_p?", "allowed are max_new_tokens"],
    ),
    "wrong type": (parameters(top_k="5"), 422, "validation", ["parameters.top_k", "integer"]),
    "out of range": (parameters(top_p=2), 422, "validation", ["parameters.top_p", "1", "2"]),
    "too many new tokens": (
        parameters(max_new_tokens=257),
        422,
        "validation",
        ["parameters.max_new_tokens", "257", "256"],
    ),
    "too few": (
        parameters(max_new_tokens=2, min_new_tokens=3),
        422,
        "validation",
        ["min_new_tokens", "3", "2"],
    ),
    "contradiction": (
        parameters(n=2, num_return_sequences=3),
        422,
        "validation",
        ["parameters.n", "num_return_sequences"],
    ),
    "long timeout": (
        parameters(timeout_ms=20_001),
        422,
        "validation",
        ["parameters.timeout_ms", "20001", "20000"],
    ),
    "long truncate": (parameters(truncate=65), 422, "validation", ["truncate", "65", "64"]),
    "too many tokens": (
        task(inputs="x" * 64),
        413,
        "input_too_long",
        ["inputs", "more than 64", "truncate"],
    ),
    "too many bytes": (task(inputs="é" * 501), 413, "input_too_long", ["inputs", "1002", "1000"]),
    "template does not fit": (
        {"task_id": "agnews", "text": "x", "parameters": {"truncate": 5}},
        413,
        "input_too_long",
        ["template", "12", "5"],
    ),
    "no template": (
        {"task_id": "raw", "text": "x"},
        422,
        "validation",
        ["text", "'raw'", "no prompt template", "inputs"],
    ),
    "body is a list": ([], 422, "validation", ["JSON object"]),
    "body is null": (None, 422, "validation", ["JSON object"]),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_bad_requests(http: httpx.Client, route: str, case: Case) -> None:
    body, status, code, words = case
    answer = http.post(route, json=body)
    error = answer.json()
    if route == "/" and code == "input_too_long":  # TGI's clients know it by another name
        assert error["reason"]
        code = "validation"
    assert (answer.status_code, error["error_type"]) == (status, code), error
    assert set(error) <= {"error", "error_type", "reason"}
    missing = [word for word in words if word not in error["error"]]
    assert not missing, error["error"]


RAW: dict[str, tuple[bytes, str, str]] = {
    "no JSON": (b"{", "application/json", "not valid JSON"),
    "nothing": (b"", "application/json", "JSON object"),
    "a form": (b"task_id=agnews", "application/x-www-form-urlencoded", "JSON object"),
    "no type": (b'{"task_id": "agnews", "inputs": "x"}', "", "content-type: application/json"),
    "not UTF-8": (b'{"task_id": "\xff"}', "application/json", "not UTF-8"),
    "deep": (b"[" * 4000, "application/json", ""),
    "a huge number": (b'{"x": ' + b"9" * 4080 + b"}", "application/json", ""),
    "NaN": (
        b'{"task_id": "agnews", "inputs": "x", "parameters": {"temperature": NaN}}',
        "application/json",
        "NaN is not a JSON number",
    ),
    "half a surrogate": (
        b'{"task_id": "agnews", "inputs": "\\ud800"}',
        "application/json",
        "Unicode",
    ),
    "a task of half a surrogate": (
        b'{"task_id": "\\ud800", "inputs": "x"}',
        "application/json",
        "",
    ),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("case", RAW.values(), ids=RAW.keys())
def test_bad_bodies(http: httpx.Client, route: str, case: tuple[bytes, str, str]) -> None:
    content, content_type, words = case
    headers = {"content-type": content_type} if content_type else {}
    answer = http.post(route, content=content, headers=headers)
    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation"), answer.text
    assert words in answer.json()["error"]


@pytest.mark.parametrize("route", ROUTES)
def test_a_body_over_the_limit(http: httpx.Client, route: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [b"x" * 1000] * 5

    for content in (b"x" * 5000, chunks()):
        headers = {"content-type": "application/json"}
        answer = http.post(route, content=content, headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error_type"] == "body_too_large"
        assert "5000" in answer.json()["error"]
        assert "4096" in answer.json()["error"]
        assert answer.headers["x-request-id"]


def test_a_long_list(http: httpx.Client) -> None:
    answer = http.post("/generate", json=task(inputs=["x"] * 5))
    assert answer.status_code == 422
    assert answer.json()["error"] == "inputs: 5 prompts given; at most 4 are allowed"


def test_a_stream_takes_no_list(http: httpx.Client) -> None:
    answer = http.post("/generate_stream", json=task(inputs=["x"]))
    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation")


@pytest.mark.parametrize("route", ROUTES)
def test_the_header_and_the_path_must_agree(http: httpx.Client, route: str) -> None:
    answer = http.post(route, json=task(), headers={"x-task-id": "raw"})
    assert answer.status_code == 422
    assert "x-task-id" in answer.json()["error"]
    if route != "/":
        answer = http.post(f"/v1/tasks/raw{route}", json=task())
        assert answer.status_code == 422
        assert "the path" in answer.json()["error"]


@pytest.mark.parametrize(
    "path", ["..%2Fetc", "%2Fetc%2Fpasswd", "a%E2%80%AE", "%20", "%F0%9F%92%A9"]
)
@pytest.mark.parametrize("method", ["GET", "generate"])
def test_odd_names_in_a_path(http: httpx.Client, path: str, method: str) -> None:
    if method == "GET":
        answer = http.get(f"/v1/adapters/{path}")
    else:
        answer = http.post(f"/v1/tasks/{path}/generate", json={"inputs": "x"})
    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation")
    assert "1 to 64" in answer.json()["error"]


def test_unknown_routes_and_methods(http: httpx.Client) -> None:
    unknown = http.get("/generat")
    assert (unknown.status_code, unknown.json()["error_type"]) == (404, "not_found")
    wrong = http.get("/generate")
    assert (wrong.status_code, wrong.json()["error_type"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


def test_strange_names_make_no_series(http: httpx.Client, site: Site) -> None:
    def series() -> int:
        return len(http.get("/metrics").text.splitlines())

    http.post("/generate", json=task(task_id="first"))
    wait_for(lambda: site.outcomes("_unknown").get("client_unknown_task", 0) > 0)
    before, counted = series(), site.outcomes("_unknown")["client_unknown_task"]
    for number in range(50):
        http.post("/generate", json=task(task_id=f"unknown-{number}"))
    wait_for(lambda: site.outcomes("_unknown")["client_unknown_task"] == counted + 50)
    assert series() == before


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
fields = ["task_id", "inputs", "text", "parameters", "model", "adapter_id"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(fields), json_values) | json_values, st.sampled_from(ROUTES))
def test_any_json_is_answered_in_our_form(http: httpx.Client, body: Any, route: str) -> None:
    content = json.dumps(body).encode()
    answer = http.post(route, content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (403, 404, 413, 422), answer.text
    assert set(answer.json()) <= {"error", "error_type", "reason"}


def test_an_error_of_our_own_tells_nothing_but_its_id(
    http: httpx.Client, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(spec: str) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(site.parts.services.residency.table, "acquire", broken)
    answer = http.post("/generate", json=task(), headers={"x-request-id": "my-id"})
    assert (answer.status_code, answer.json()["error_type"]) == (500, "internal")
    assert "my-id" in answer.json()["error"]
    assert answer.headers["x-request-id"] == "my-id"
    assert "secret" not in answer.text
