"""What the benchmark of dialects sends, reads and subtracts, without a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection

import pytest

from jumplora_bench.cases.requests import NotAnswered, Post, RequestsCase
from jumplora_bench.dialects import MOST_ADDED_SECONDS, WAYS, Way, added_seconds, check_same
from small_http import Asked, Said, http_server

BY_NAME = {way.name: way for way in WAYS}
ANSWERS = {
    "native": {"generated_text": "a b"},
    "TGI /": [{"generated_text": "a b"}],
    "OpenAI completions": {"choices": [{"text": "a b"}]},
    "OpenAI chat": {"choices": [{"message": {"content": "a b"}}]},
    "KServe infer": {
        "outputs": [{"name": "finish_reason", "data": ["x"]}, {"name": "text", "data": ["a b"]}]
    },
}
STREAMS: dict[str, list[object]] = {
    "native, streamed": [{"generated_text": None}, {"generated_text": "a b"}],
    "TGI /, streamed": [{"generated_text": None}, {"generated_text": "a b"}],
    "OpenAI completions, streamed": [
        {"choices": [{"text": "a"}]}, {"choices": [{"text": " b"}]}
    ],
    "OpenAI chat, streamed": [
        {"choices": [{"delta": {"role": "assistant"}}]},
        {"choices": [{"delta": {"content": "a b"}}]},
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_a_whole_answers_text_is_read(name: str) -> None:
    assert BY_NAME[name].said(json.dumps(ANSWERS[name]).encode()) == "a b"


@pytest.mark.parametrize("name", STREAMS)
def test_a_streams_text_is_read(name: str) -> None:
    events = "".join(f"data: {json.dumps(event)}\n\n" for event in STREAMS[name])
    assert BY_NAME[name].said(f"{events}data: [DONE]\n\n".encode()) == "a b"


@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.name))
def test_every_way_sends_the_same_prompt_and_length(way: Way) -> None:
    body = way.post("a prompt", 7).body.decode()
    assert body.count('"a prompt"') == 1
    assert body.count(": 7") == 1
    assert ('"stream": true' in body or "stream" in way.path) == way.is_streamed
    assert way.beside is None or BY_NAME[way.beside].beside is None


def test_a_way_is_compared_with_the_native_one_of_its_kind() -> None:
    seconds = {way.name: [1.0, 2.0, 9.0] for way in WAYS} | {"OpenAI chat": [1.5, 9.0, 2.5]}
    added = added_seconds(seconds)
    assert added.keys() == {way.name for way in WAYS if way.beside}
    assert added.pop("OpenAI chat") == 0.5  # of the medians
    assert set(added.values()) == {0.0}
    assert MOST_ADDED_SECONDS == 0.001


def test_ways_that_got_another_text_are_refused() -> None:
    check_same({"native": "a", "TGI /": "a"})
    with pytest.raises(NotAnswered, match="TGI /: 'b', and native got 'a'"):
        check_same({"native": "a", "TGI /": "b"})
    with pytest.raises(NotAnswered, match="native: ''"):
        check_same({"native": ""})


@contextmanager
def case_of(url: str, *posts: Post) -> Iterator[RequestsCase]:
    with closing(HTTPConnection(url.removeprefix("http://"), timeout=20)) as http:
        yield RequestsCase("some", http, posts)


def test_requests_are_sent_in_turn_over_one_connection() -> None:
    asked: list[Asked] = []

    def answer(each: Asked) -> Said:
        asked.append(each)
        return Said(200, each.body)

    with http_server(answer) as url, case_of(url, Post("/a", b"1"), Post("/b", b"2")) as case:
        laps = [case.run(), case.run()]
    assert [(each.path, each.body) for each in asked] == [("/a", b"1"), ("/b", b"2")] * 2
    assert len({each.client_port for each in asked}) == 1
    assert case.answers == [b"1", b"2"], "those of the last lap"
    assert all(0 < lap.seconds < 20 for lap in laps)


def test_a_refused_request_ends_the_measurement() -> None:
    with (
        http_server(lambda asked: Said.of({"error": "no"}, 422)) as url,
        case_of(url, Post("/a", b"1")) as case,
        pytest.raises(NotAnswered, match=r"some: /a: 422 .*no"),
    ):
        case.run()
