"""Prepared requests and floods, against a server that counts."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from jumplora_bench.flooding import Flood, Reply, ask, at_a_rate, by_clients, flooded, prepared
from ports import deaf_address
from small_http import Asked, Said, http_server


def test_a_prepared_request_is_a_whole_one() -> None:
    seen: list[Asked] = []

    def answer(asked: Asked) -> Said:
        seen.append(asked)
        return Said.of({})

    raw = prepared("news", "ein Süßes", max_new_tokens=3, do_sample=True)
    with http_server(answer) as url:
        assert asyncio.run(ask(url, raw)) == 200
    (asked,) = seen
    assert (asked.method, asked.path) == ("POST", "/generate")
    assert asked.headers["connection"] == "close"
    assert asked.headers["content-type"] == "application/json"
    assert asked.json == {
        "task_id": "news",
        "inputs": "ein Süßes",
        "parameters": {"max_new_tokens": 3, "do_sample": True},
    }


@pytest.mark.parametrize("status", [200, 404, 429, 503])
def test_the_status_is_what_came(status: int) -> None:
    with http_server(lambda asked: Said.of({}, status)) as url:
        assert asyncio.run(ask(url, prepared("t", "x"))) == status


def test_no_answer_is_status_0() -> None:
    with deaf_address() as url:
        assert asyncio.run(ask(url, prepared("t", "x"))) == 0
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert asyncio.run(ask(url, prepared("t", "x"))) == 0
        thread.join(10)


def test_an_open_loop_sends_when_it_is_due_and_counts_from_then() -> None:
    """Four requests in 0.2 s; the server holds all until the last one has come."""
    together = threading.Barrier(4, timeout=10)
    bodies: list[str] = []

    def answer(asked: Asked) -> Said:
        bodies.append(asked.json["task_id"])
        together.wait()
        return Said.of({})

    requests = [prepared("a", "x"), prepared("b", "x")]
    with http_server(answer) as url:
        replies = asyncio.run(at_a_rate(url, requests, 20.0, 0.2))
    assert [reply.status for reply in replies] == [200] * 4
    assert Counter(bodies) == {"a": 2, "b": 2}
    waits = [reply.seconds for reply in replies]
    assert waits[0] >= 0.15, "the first waited for the last, which was due 0.15 s later"
    assert waits == sorted(waits, reverse=True)


def test_clients_ask_again_once_they_were_answered() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def answer(asked: Asked) -> Said:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)  # so that requests meet
        with lock:
            now -= 1
        return Said.of({}, 429)

    with http_server(answer) as url:
        replies = asyncio.run(by_clients(url, [prepared("a", "x")], 3, 0.2))
    assert most == 3
    assert len(replies) > 3
    assert {reply.status for reply in replies} == {429}


@pytest.mark.parametrize(
    ("flood", "expected"),
    [
        pytest.param(Flood((b"",), rate=10.0, clients=7), 5, id="a rate, whatever the clients"),
        pytest.param(Flood((b"",)), 0, id="neither: nothing is sent"),
    ],
)
def test_a_flood_is_a_rate_or_clients(flood: Flood, expected: int) -> None:
    with deaf_address() as url:
        replies = asyncio.run(flood.run(url, 0.5 if expected else 0.05))
    assert len(replies) == expected
    assert all(isinstance(reply, Reply) and reply.status == 0 for reply in replies)


def test_a_flood_runs_beside_the_block_in_a_process_of_its_own(tmp_path: Path) -> None:
    begun = threading.Event()

    def answer(asked: Asked) -> Said:
        begun.set()
        return Said.of({}, 200 if json.loads(asked.body)["task_id"] == "a" else 429)

    requests = (prepared("a", "x"), prepared("b", "x"))
    with (
        http_server(answer) as url,
        flooded(url, Flood(requests, rate=40.0), 0.25) as counts,
    ):
        assert begun.wait(10), "the block runs while it floods"
        assert counts() == {200: 5, 429: 5}


def test_a_flood_that_does_not_end_is_ended_with_the_block() -> None:
    before = threading.active_count()
    with (
        http_server(lambda asked: Said.of({})) as url,
        flooded(url, Flood((prepared("a", "x"),), clients=1), 3600.0),
    ):
        pass
    assert threading.active_count() <= before + 1
