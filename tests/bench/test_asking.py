"""Clients of the serving benchmark against a server whose answers are decided here."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest

from jumplora_bench.answers import Answer
from jumplora_bench.asking import Asker, How, closed_loop, cpu_share, one_by_one, open_loop
from jumplora_bench.traffic import Question
from ports import deaf_address
from small_http import Asked, Said, http_server

NEW = 3
QUESTION = Question(0.0, "news", "some words")


def stream(tokens: int, error: str = "") -> bytes:
    """Server-sent events as the server writes them."""
    events = ['data:{"token": {}}'] * tokens + ([f'data:{{"error":"{error}"}}'] if error else [])
    return "".join(f"{event}\n\n" for event in events).encode()


def whole(tokens: int) -> Said:
    return Said.of({"generated_text": "x", "details": {"generated_tokens": tokens}})


def right(asked: Asked) -> Said:
    """Exactly what was asked for."""
    tokens = asked.json["parameters"]["max_new_tokens"]
    return Said(body=stream(tokens)) if asked.path == "/generate_stream" else whole(tokens)


def ask(said: Said, how: How) -> tuple[Answer, Answer]:
    """The one question by both clients: that of many, and that of one alone."""
    with http_server(lambda asked: said) as url:
        asker = Asker(url, NEW, how)
        (many,) = asyncio.run(open_loop(asker, [QUESTION], lambda: None))
        (alone,) = one_by_one(asker, [QUESTION])
    return many, alone


@pytest.mark.parametrize("how", ["whole", "streamed"])
def test_the_request_asks_for_exactly_so_many_tokens(how: How) -> None:
    seen: list[Asked] = []

    def answer(asked: Asked) -> Said:
        seen.append(asked)
        return right(asked)

    with http_server(answer) as url:
        (found,) = one_by_one(Asker(url, NEW, how), [QUESTION])
    assert found.error is None
    assert len(found.token_times) == NEW
    (asked,) = seen
    assert asked.path == {"whole": "/generate", "streamed": "/generate_stream"}[how]
    limits = {"max_new_tokens": NEW, "min_new_tokens": NEW}
    expected = {"task_id": "news", "inputs": "some words", "parameters": limits}
    assert asked.json == expected


@pytest.mark.parametrize(
    ("said", "how", "error"),
    [
        pytest.param(whole(NEW), "whole", None, id="whole"),
        pytest.param(Said(body=stream(NEW)), "streamed", None, id="streamed"),
        pytest.param(whole(2), "whole", "2 tokens, 3 expected", id="whole, too short"),
        pytest.param(
            Said(body=stream(4)), "streamed", "4 tokens, 3 expected", id="streamed, too long"
        ),
        pytest.param(
            Said(body=stream(2, "broken")), "streamed", 'data:{"error":"broken"}', id="in a stream"
        ),
        pytest.param(
            Said.of({"error": "e", "error_type": "queue_full"}, 429),
            "whole", "429 queue_full", id="refused",
        ),
        pytest.param(Said(502, b"<html>bad"), "whole", "502 b'<html>bad'", id="no JSON"),
        pytest.param(Said(500, b"[]"), "streamed", "500 b'[]'", id="no object"),
        pytest.param(Said(500, b'{"a": 1}'), "whole", "500 b'{\"a\": 1}'", id="another form"),
    ],
)  # fmt: skip
def test_what_came_is_told_alike_by_both_clients(said: Said, how: How, error: str | None) -> None:
    many, alone = ask(said, how)
    assert (many.error, alone.error) == (error, error)


def test_an_answer_that_is_cut_is_an_error() -> None:
    many, alone = ask(Said(body=stream(1), missing=100), "streamed")
    assert many.error is not None
    assert many.error.startswith("IncompleteReadError")
    assert alone.error is not None


def test_nobody_listens() -> None:
    with deaf_address() as url:
        asker = Asker(url, NEW)
        (many,) = asyncio.run(open_loop(asker, [QUESTION], lambda: None))
        (alone,) = one_by_one(asker, [QUESTION])
    assert str(many.error).startswith("ConnectionRefusedError")
    assert str(alone.error).startswith("ConnectionRefusedError")
    assert many.token_times == alone.token_times == ()


def test_a_cut_answer_fails_its_own_question_alone() -> None:
    turns = iter([Said(body=b'{"gen', missing=9), whole(NEW), whole(NEW)])
    with http_server(lambda asked: next(turns)) as url:
        found = one_by_one(Asker(url, NEW, "whole"), [QUESTION] * 3)
    assert [answer.error is None for answer in found] == [False, True, True]


def test_one_by_one_keeps_its_connection_and_asks_nothing_before_the_last_answer() -> None:
    ports: list[int] = []
    befores: list[str] = []

    def answer(asked: Asked) -> Said:
        ports.append(asked.client_port)
        assert len(befores) == len(ports)
        return right(asked)

    questions = [Question(9.0, f"t{i}", "x") for i in range(4)]
    with http_server(answer) as url:
        found = one_by_one(
            Asker(url, NEW), questions, before=lambda question: befores.append(question.task)
        )
    assert len(set(ports)) == 1
    assert befores == ["t0", "t1", "t2", "t3"]
    assert [answer.task for answer in found] == befores
    dues = [answer.due for answer in found]
    assert dues == sorted(dues)
    assert dues[0] < 9.0, "due is when it was sent, not when the mix had it"


def test_an_open_loop_does_not_wait_for_answers() -> None:
    """Three questions, 50 ms apart; the first answer comes when the last question has come."""
    waiting = threading.Barrier(3, timeout=10)

    def answer(asked: Asked) -> Said:
        waiting.wait()
        return right(asked)

    questions = [Question(at, "t", "x") for at in (0.0, 0.05, 0.1)]
    told: list[None] = []
    with http_server(answer) as url:
        found = asyncio.run(open_loop(Asker(url, NEW), questions, lambda: told.append(None)))
    assert len(told) == 3
    assert [answer.error for answer in found] == [None] * 3
    assert [answer.due for answer in found] == [0.0, 0.05, 0.1]
    assert all(answer.sent >= answer.due for answer in found)
    assert all(answer.ttft >= 0.1 - answer.due for answer in found), "waits count from when due"


def test_a_closed_loop_has_so_many_open_and_asks_in_turn() -> None:
    lock, now, most, tasks = threading.Lock(), 0, 0, list[str]()

    def answer(asked: Asked) -> Said:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            tasks.append(asked.json["task_id"])
        time.sleep(0.01)  # so that requests meet
        with lock:
            now -= 1
        return right(asked)

    questions = [Question(0.0, name, "x") for name in "abc"]
    with http_server(answer) as url:
        found = asyncio.run(closed_loop(Asker(url, NEW), questions, clients=2, seconds=0.3))
    assert most == 2
    assert len(found) > 3, "they come again from the first"
    counts = [tasks.count(name) for name in "abc"]
    assert max(counts) - min(counts) <= 1
    assert all(answer.sent < 0.3 for answer in found)
    assert all(answer.error is None for answer in found)


def test_the_share_of_a_core() -> None:
    with cpu_share() as idle:
        time.sleep(0.05)
    with cpu_share() as busy:
        end = time.process_time() + 0.05
        while time.process_time() < end:
            json.dumps(list(range(100)))
    assert 0 <= idle.value < busy.value < 1.5
