"""The client against canned answers; test_app has it against the real server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from jumplora_server.client import Client, RequestFailed

DETAILS = {
    "finish_reason": "eos_token",
    "prompt_tokens": 3,
    "generated_tokens": 2,
    "seed": None,
    "task_id": "a",
    "adapter_version": "ab" * 32,
    "tokens": [],
}
ANSWER = {"generated_text": "yes", "details": DETAILS}
STATUS = {
    "task_id": "a",
    "version": "ab" * 32,
    "desired": "ab" * 32,
    "state": "READY",
    "degraded": False,
    "failure": None,
    "pinned": False,
    "in_flight": 0,
    "bytes": {"disk": 1, "host": 2, "device": 0},
    "nonzeros": 5,
    "density": 0.5,
    "history": ["ab" * 32],
    "manifest": None,
    "a field of a newer server": 1,
}


def client(answer: Callable[[httpx.Request], httpx.Response]) -> Client:
    return Client("http://server/", key="secret-key", transport=httpx.MockTransport(answer))


def test_generate() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=ANSWER)

    with client(answer) as asked:
        assert asked.generate("a", text="t", parameters={"seed": 1}).generated_text == "yes"
    assert json.loads(seen[0].content) == {"task_id": "a", "text": "t", "parameters": {"seed": 1}}
    assert seen[0].headers["authorization"] == "Bearer secret-key"
    assert seen[0].url == "http://server/generate"


def test_generate_all() -> None:
    with client(lambda _: httpx.Response(200, json=[ANSWER, ANSWER])) as asked:
        assert [each.generated_text for each in asked.generate_all("a", inputs=["x", "y"])] == [
            "yes",
            "yes",
        ]


def stream(*events: str) -> Callable[[httpx.Request], httpx.Response]:
    lines = "".join(f"data:{event}\n\n" for event in events)
    return lambda _: httpx.Response(200, text=lines)


def test_stream() -> None:
    token = {"id": 5, "text": "y", "logprob": None, "special": False}
    first = json.dumps({"index": 0, "token": token, "generated_text": None, "details": None})
    last = json.dumps({"index": 1, "token": token, **ANSWER})
    with client(stream(first, last)) as asked:
        events = list(asked.stream("a", inputs="x"))
    assert [event.generated_text for event in events] == [None, "yes"]


def test_a_stream_that_breaks_off() -> None:
    error = json.dumps({"error": "too late", "error_type": "timeout"})
    with client(stream(error)) as asked, pytest.raises(RequestFailed, match="too late") as caught:
        list(asked.stream("a", inputs="x"))
    assert caught.value.code == "timeout"


def test_a_stream_that_is_refused() -> None:
    refusal = httpx.Response(404, json={"error": "no task", "error_type": "unknown_task"})
    with client(lambda _: refusal) as asked, pytest.raises(RequestFailed, match="no task"):
        list(asked.stream("a", inputs="x"))


def test_put_sends_the_files_hash(tmp_path: Path) -> None:
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(b"content" * 1000)
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        request.read()
        seen.append(request)
        return httpx.Response(201, json={**STATUS, "outcome": "created"})

    with client(answer) as asked:
        assert asked.put("a", file, if_match="cd" * 32).outcome == "created"
    (request,) = seen
    assert request.content == file.read_bytes()
    assert request.headers["x-content-sha256"] == hashlib.sha256(request.content).hexdigest()
    assert request.headers["if-match"] == f'"{"cd" * 32}"'
    assert request.headers["content-length"] == str(len(request.content))


def test_admin_calls() -> None:
    seen: list[tuple[str, str, bytes]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path, request.content))
        return httpx.Response(200, json={"adapters": [STATUS], **STATUS})

    with client(answer) as asked:
        assert asked.adapters()[0].task_id == "a"
        assert asked.adapter("a").history == ["ab" * 32]
        asked.rollback("a", "abababab")
        asked.load("a")
        asked.pin("a", "unpinned")
        asked.remove("a")
        assert asked.is_ready()
    assert seen == [
        ("GET", "/v1/adapters", b""),
        ("GET", "/v1/adapters/a", b""),
        ("POST", "/v1/adapters/a/rollback", b'{"version":"abababab"}'),
        ("POST", "/v1/adapters/a/load", b""),
        ("POST", "/v1/adapters/a/pin", b'{"pinned":"unpinned"}'),
        ("DELETE", "/v1/adapters/a", b""),
        ("GET", "/readyz", b""),
    ]


def test_errors_carry_what_the_server_said() -> None:
    refusal = httpx.Response(
        503,
        json={"error": "busy", "error_type": "queue_full", "reason": "x"},
        headers={"retry-after": "7"},
    )
    with client(lambda _: refusal) as asked, pytest.raises(RequestFailed, match="busy") as caught:
        asked.adapters()
    failure = caught.value
    assert (failure.status, failure.code, failure.reason) == (503, "queue_full", "x")
    assert failure.retry_after == 7.0


def test_a_proxys_page_is_an_error_too() -> None:
    page = httpx.Response(502, text="<html>bad gateway</html>")
    with client(lambda _: page) as asked, pytest.raises(RequestFailed, match="HTTP 502") as caught:
        asked.generate("a", inputs="x")
    assert (caught.value.status, caught.value.code) == (502, "http")


def test_no_server() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with client(answer) as asked:
        with pytest.raises(RequestFailed, match="gave no answer") as caught:
            asked.generate("a", inputs="x")
        assert not asked.is_ready()
    assert (caught.value.status, caught.value.code) == (0, "unreachable")


@pytest.mark.parametrize(
    "page", [httpx.Response(200, text="<html>"), httpx.Response(200, json={"model_id": "of TGI"})]
)
def test_another_servers_answer_is_an_error(page: httpx.Response) -> None:
    with (
        client(lambda _: page) as asked,
        pytest.raises(RequestFailed, match="does not answer /info as a JumpLoRA server") as caught,
    ):
        asked.info()
    assert caught.value.code == "http"
