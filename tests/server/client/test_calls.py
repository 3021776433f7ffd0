"""What both clients send, and what they make of any answer, against a server of canned ones."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client_pair import KINDS, Kind, client_of
from jumplora_server.client import (
    Client,
    InputRefused,
    KeyRefused,
    Overloaded,
    RequestFailed,
    ServerFailed,
    TaskUnknown,
    Unreachable,
)
from ports import held_port
from small_http import Asked, Said, http_server

KEY = "a-secret-key"
DETAILS = {
    "finish_reason": "eos_token",
    "prompt_tokens": 3,
    "generated_tokens": 2,
    "seed": None,
    "task_id": "a",
    "adapter_version": "ab" * 32,
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

pytestmark = pytest.mark.parametrize("kind", KINDS)


def refused(status: int, code: str = "a_code", **headers: str) -> Said:
    return Said.of({"error": f"it says {code}", "error_type": code}, status, **headers)


def outcome(
    kind: Kind, answer: Callable[[Asked], Said], call: Callable[[Any], Any], **options: Any
) -> tuple[Any, list[Asked]]:
    """What a call came to, and what the server was sent."""
    seen: list[Asked] = []

    def noted(asked: Asked) -> Said:
        seen.append(asked)
        return answer(asked)

    with http_server(noted) as url, client_of(kind, url + "/", key=KEY, **options) as client:
        return call(client), seen


def failure(
    kind: Kind, said: Said, call: Callable[[Any], Any] = lambda client: client.adapters()
) -> RequestFailed:
    with pytest.raises(RequestFailed) as caught:
        outcome(kind, lambda _: said, call, retries=0)
    assert KEY not in f"{caught.value} {caught.value!r} {vars(caught.value)}"
    return caught.value


def test_generate(kind: Kind) -> None:
    answer, (asked,) = outcome(
        kind, lambda _: Said.of(ANSWER), lambda c: c.generate("a", "t", parameters={"seed": 1})
    )
    assert answer.generated_text == "yes"
    assert asked.json == {"task_id": "a", "text": "t", "parameters": {"seed": 1}}
    assert (asked.method, asked.path) == ("POST", "/generate")
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["content-type"] == "application/json"


@pytest.mark.parametrize("text", ["größer ↔ 𝄞", "half \ud83d"], ids=["whole", "half"])
def test_text_of_any_characters_arrives(kind: Kind, text: str) -> None:
    _, (asked,) = outcome(kind, lambda _: Said.of(ANSWER), lambda c: c.generate("a", text))
    assert asked.json["text"] == text


@pytest.mark.parametrize("prompts", [{}, {"text": "t", "inputs": "i"}])
def test_a_prompt_is_a_text_or_whole(kind: Kind, prompts: dict[str, str]) -> None:
    for name in ("generate", "stream", "stream_text", "choose"):
        with (
            client_of(kind, "http://127.0.0.1:1") as client,
            pytest.raises(TypeError, match="exactly one of text and inputs"),
        ):
            list(getattr(client, name)("a", **prompts))


def test_one_text_is_not_a_list(kind: Kind) -> None:
    with client_of(kind, "http://127.0.0.1:1") as client:
        with pytest.raises(TypeError, match="give a list of strings"):
            client.generate_all("a", "text")
        with pytest.raises(TypeError, match="give a list of strings"):
            client.choose("a", "text", "yes")


def test_a_list_is_not_one_text(kind: Kind) -> None:
    with client_of(kind, "http://127.0.0.1:1") as client:
        for name in ("generate", "stream", "stream_text", "choose"):
            with pytest.raises(TypeError, match="text of type list given; give one string"):
                list(getattr(client, name)("a", ["text"]))


def test_generate_all(kind: Kind) -> None:
    answers, (asked,) = outcome(
        kind, lambda _: Said.of([ANSWER, ANSWER]), lambda c: c.generate_all("a", inputs=("x", "y"))
    )
    assert [each.generated_text for each in answers] == ["yes", "yes"]
    assert asked.json["inputs"] == ["x", "y"]
    error = failure(kind, Said.of([ANSWER]), lambda c: c.generate_all("a", ["x", "y"]))
    assert "1 answers came to 2 prompts" in error.message
    assert (
        "address right"
        in failure(kind, Said.of(ANSWER), lambda c: c.generate_all("a", ["x"])).message
    )


def test_choose_sends_its_options_and_floors(kind: Kind) -> None:
    ranking = [{"text": "no", "probability": 0.75, "logprob": -1.0},
               {"text": "yes", "probability": 0.25, "logprob": None}]  # fmt: skip
    details = {**DETAILS, "choices": ranking, "mass": 0.5, "temperature": 2.0,
               "calibrated_by": "manifest", "finish_reason": "abstained"}  # fmt: skip
    said = Said.of({"generated_text": "", "details": details})
    choice, (asked,) = outcome(kind, lambda _: said, lambda c: c.choose("a", "t", min_mass=0.6))
    assert asked.json["parameters"] == {"choices": True, "min_mass": 0.6}
    assert (choice.text, choice.probability, choice.mass) == (None, 0.75, 0.5)
    assert choice.options == (("no", 0.75), ("yes", 0.25))
    assert (choice.calibrated, choice.version) == (True, "ab" * 32)
    _, (asked,) = outcome(
        kind, lambda _: said, lambda c: c.choose("a", "t", ("no", "yes"), min_probability=0.0)
    )
    assert asked.json["parameters"] == {"choices": ["no", "yes"], "min_probability": 0.0}
    assert "no choices" in failure(kind, Said.of(ANSWER), lambda c: c.choose("a", "t")).message


def test_publish_sends_the_files_hash(kind: Kind, tmp_path: Path) -> None:
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(bytes(range(256)) * 10_000)  # more than one piece
    result, (asked,) = outcome(
        kind,
        lambda _: Said.of({**STATUS, "outcome": "created"}, 201),
        lambda c: c.publish("a", file, if_match="cd" * 32),
    )
    assert result.outcome == "created"
    assert (asked.method, asked.path) == ("PUT", "/v1/adapters/a")
    assert asked.body == file.read_bytes()
    assert asked.headers["x-content-sha256"] == hashlib.sha256(asked.body).hexdigest()
    assert asked.headers["if-match"] == f'"{"cd" * 32}"'
    assert asked.headers["content-length"] == str(len(asked.body))
    assert "transfer-encoding" not in asked.headers


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "cannot be read: No such file"),
        ("pipe", "cannot be read: it is a pipe, not an ordinary file"),
        ("pickled", "has adapter_model.bin and no adapter_model.safetensors"),
        ("zero\0byte", "cannot be read: embedded null byte"),
    ],
)
def test_publish_of_what_is_no_adapter(kind: Kind, tmp_path: Path, name: str, words: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pickled").mkdir()
    for file in ("adapter_config.json", "adapter_model.bin"):
        (tmp_path / "pickled" / file).touch()
    with (
        client_of(kind, "http://127.0.0.1:1") as client,
        pytest.raises(InputRefused, match=words) as caught,
    ):
        client.publish("a", tmp_path / name)
    assert (caught.value.status, caught.value.code) == (0, "input")


def test_publish_of_a_new_task_is_not_sent_twice(kind: Kind, tmp_path: Path) -> None:
    """Its own first try would be in its way."""
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(b"x")
    conditions = list[str]()

    def lost(asked: Asked) -> Said:
        conditions.append(asked.headers["if-none-match"])
        return Said(200, b"{", missing=1)

    with pytest.raises(Unreachable):
        outcome(kind, lost, lambda c: c.publish("a", file, new=True))
    assert conditions == ["*"]
    with (
        client_of(kind, "http://127.0.0.1:1") as client,
        pytest.raises(TypeError, match="not both"),
    ):
        client.publish("a", file, new=True, if_match="ab" * 32)


def test_admin_calls(kind: Kind) -> None:
    def calls(client: Any) -> None:
        assert client.adapters()[0].task_id == "a"
        assert client.adapter("a").history == ["ab" * 32]
        client.rollback("a")
        client.rollback("a", "abababab")
        client.stage("a", "abababab", 0.25)
        client.stage("a", "abababab", 0.25, promote_after=60)
        client.promote("a")
        client.unstage("a", "abababab", note="slow")
        client.alias("a", "best", None)
        client.load("a")
        client.pin("a")
        client.pin("a", "unpinned")
        client.remove("a")
        assert client.is_ready()

    _, seen = outcome(kind, lambda _: Said.of({"adapters": [STATUS], **STATUS}), calls)
    assert [(each.method, each.path, each.body) for each in seen] == [
        ("GET", "/v1/adapters", b""),
        ("GET", "/v1/adapters/a", b""),
        ("POST", "/v1/adapters/a/rollback", b"{}"),
        ("POST", "/v1/adapters/a/rollback", b'{"version":"abababab"}'),
        ("POST", "/v1/adapters/a/stage", b'{"version":"abababab","share":0.25}'),
        (
            "POST",
            "/v1/adapters/a/stage",
            b'{"version":"abababab","share":0.25,"promote_after":60}',
        ),
        ("POST", "/v1/adapters/a/promote", b"{}"),
        ("POST", "/v1/adapters/a/unstage", b'{"version":"abababab","note":"slow"}'),
        ("POST", "/v1/adapters/a/alias", b'{"name":"best","version":null}'),
        ("POST", "/v1/adapters/a/load", b""),
        ("POST", "/v1/adapters/a/pin", b'{"pinned":"pinned"}'),
        ("POST", "/v1/adapters/a/pin", b'{"pinned":"unpinned"}'),
        ("DELETE", "/v1/adapters/a", b""),
        ("GET", "/readyz", b""),
    ]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InputRefused),
        (401, KeyRefused),
        (403, KeyRefused),
        (404, TaskUnknown),
        (409, InputRefused),
        (412, InputRefused),
        (413, InputRefused),
        (422, InputRefused),
        (429, Overloaded),
        (500, ServerFailed),
        (502, ServerFailed),
        (503, Overloaded),
        (504, ServerFailed),
        (507, ServerFailed),
    ],
)
def test_errors_by_status(kind: Kind, status: int, error: type[RequestFailed]) -> None:
    found = failure(kind, refused(status))
    assert type(found) is error
    assert (found.status, found.code, found.message) == (status, "a_code", "it says a_code")
    assert f"/v1/adapters: {status} a_code" in str(found)
    longer = found.extended("; and more")
    assert (type(longer), longer.message, longer.status) == (
        error,
        "it says a_code; and more",
        status,
    )
    copy = pickle.loads(pickle.dumps(found))
    assert (type(copy), str(copy), vars(copy)) == (error, str(found), vars(found))


def test_errors_carry_what_the_server_said(kind: Kind) -> None:
    body = {"error": "busy", "error_type": "queue_full", "reason": "x"}
    found = failure(kind, Said.of(body, 503, retry_after="7"))
    assert (found.message, found.code, found.reason) == ("busy", "queue_full", "x")
    assert found.retry_after == 7.0


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b"[1]", b'{"error": 5}', b"\xff"])
def test_a_proxys_page_is_an_error_too(kind: Kind, body: bytes) -> None:
    found = failure(kind, Said(502, body), lambda c: c.generate("a", inputs="x"))
    assert (type(found), found.status, found.code) == (ServerFailed, 502, "http")
    assert found.message == "HTTP 502"


@pytest.mark.parametrize(
    "page",
    [
        Said(200, b"<html>"),
        Said.of({"model_id": "of TGI"}),
        Said(302, b"", {"location": "/"}),
        Said.of([1]),
    ],
)
def test_another_servers_answer_is_an_error(kind: Kind, page: Said) -> None:
    found = failure(kind, page, lambda c: c.info())
    assert "does not answer /info as a JumpLoRA server would" in found.message
    assert (type(found), found.code) == (RequestFailed, "http")


def test_no_server(kind: Kind) -> None:
    with held_port() as port, client_of(kind, f"http://127.0.0.1:{port}", retries=0) as client:
        url = f"http://127.0.0.1:{port}"
        with pytest.raises(Unreachable, match="gave no answer") as caught:
            client.generate("a", inputs="x")
        assert not client.is_ready()
    assert (caught.value.status, caught.value.code) == (0, "unreachable")
    assert f"POST {url}/generate" in str(caught.value)
    assert "JUMPLORA_SERVER" in str(caught.value)


def test_a_server_that_is_not_ready_says_why(kind: Kind) -> None:
    body = {"status": "unavailable", "checks": {"engine": "it hangs", "loader": "ok"}}
    assert not outcome(kind, lambda _: Said.of(body, 503), lambda c: c.is_ready())[0]
    slept: list[float] = []
    waiting: dict[str, Any] = {"slept": slept.append, "clock": lambda: sum(slept)}
    with pytest.raises(Overloaded) as caught:
        outcome(kind, lambda _: Said.of(body, 503), lambda c: c.wait_ready(10), **waiting)
    assert caught.value.message == "the server is not ready: engine: it hangs"


def stream_of(*events: object) -> Said:
    return Said(200, "".join(f"data:{json.dumps(event)}\n\n" for event in events).encode())


TOKEN = {"id": 5, "text": "y", "logprob": None, "special": False}
FIRST = {"index": 0, "token": TOKEN, "generated_text": None, "details": None}
LAST = {"index": 1, "token": {**TOKEN, "text": "</s>", "special": True}, **ANSWER}


def test_stream(kind: Kind) -> None:
    events, (asked,) = outcome(
        kind, lambda _: stream_of(FIRST, LAST), lambda c: list(c.stream("a", inputs="x"))
    )
    assert [event.generated_text for event in events] == [None, "yes"]
    assert (asked.path, asked.json["inputs"]) == ("/generate_stream", "x")
    pieces, _ = outcome(
        kind, lambda _: stream_of(FIRST, LAST), lambda c: list(c.stream_text("a", "x"))
    )
    assert pieces == ["y"]


@pytest.mark.parametrize(
    ("code", "error"),
    [("timeout", ServerFailed), ("draining", Overloaded), ("validation", InputRefused),
     ("of a newer server", ServerFailed)],
)  # fmt: skip
def test_a_stream_that_ends_with_an_error(
    kind: Kind, code: str, error: type[RequestFailed]
) -> None:
    said = stream_of(FIRST, {"error": "too late", "error_type": code})
    found = failure(kind, said, lambda c: list(c.stream("a", inputs="x")))
    assert (type(found), found.message, found.code) == (error, "too late", code)


def test_a_stream_that_breaks_off(kind: Kind) -> None:
    found = failure(kind, stream_of(FIRST), lambda c: list(c.stream("a", "x")))
    assert (type(found), found.code) == (Unreachable, "broken_off")
    cut = stream_of(FIRST, LAST)
    found = failure(kind, Said(200, cut.body, missing=9), lambda c: list(c.stream("a", "x")))
    assert type(found) is Unreachable
    found = failure(kind, Said(200, b"<html>"), lambda c: list(c.stream("a", "x")))
    assert "no event came" in found.message


def test_a_stream_that_is_refused(kind: Kind) -> None:
    found = failure(kind, refused(404), lambda c: list(c.stream("a", inputs="x")))
    assert type(found) is TaskUnknown


ODD = "a\u2028b\x85c\x0bd\x1ee\r"  # where str.splitlines splits


def test_a_stream_of_texts_that_have_ends_of_lines(kind: Kind) -> None:
    event = {**FIRST, "token": {**TOKEN, "text": ODD}}
    body = f"data:{json.dumps(event, ensure_ascii=False)}\r\n\r\n: a comment\n\n".encode()
    said = Said(200, body + stream_of(LAST).body)
    pieces, _ = outcome(kind, lambda _: said, lambda c: list(c.stream_text("a", "x")))
    assert pieces == [ODD]


def test_logs_have_no_key_and_no_text(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    outcome(kind, lambda _: Said.of(ANSWER), lambda c: c.generate("a", "what they wrote"))
    assert "/generate" in caplog.text
    assert KEY not in caplog.text
    assert "they wrote" not in caplog.text


def test_nothing_shows_the_key(kind: Kind) -> None:
    with client_of(kind, "http://127.0.0.1:1", key=KEY) as client:
        made = client if isinstance(client, Client) else client._client
        assert repr(made).endswith("Client('http://127.0.0.1:1')")
        assert KEY not in repr(vars(made)) + repr(vars(made._sender))
