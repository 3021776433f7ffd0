"""Large requests take turns in a thread of their own; small ones never wait for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio import to_thread

from jumplora_server.lanes import Lane
from serving import Site, connected, make_site, wait_for

PATIENCE = 20.0
LARGE = "x" * 5000


@pytest.fixture
def http(tmp_path: Path) -> Iterator[tuple[Site, httpx.Client]]:
    site = make_site(tmp_path)
    with connected(site) as http:
        site.publish("news")
        yield site, http


@contextmanager
def held(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Within this no text of a large request is tokenized to its end; yields the texts begun."""
    go_on, begun = threading.Event(), list[str]()
    tokenizer = site.parts.services.tokenizer
    encode = tokenizer.try_encode

    def waiting(text: str, most: int) -> tuple[int, ...] | None:
        if len(text) > 100:
            begun.append(text[:9])
            assert go_on.wait(PATIENCE)
        return encode(text, most)

    monkeypatch.setattr(tokenizer, "try_encode", waiting)
    try:
        yield begun
    finally:
        go_on.set()


def ask(http: httpx.Client, text: str | list[str]) -> httpx.Response:
    return http.post("/generate", json={"task_id": "news", "inputs": text}, timeout=PATIENCE)


def test_small_requests_pass_large_ones(
    http: tuple[Site, httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, client = http
    with ThreadPoolExecutor(8) as clients:
        with held(site, monkeypatch) as begun:
            large: list[Future[httpx.Response]] = [
                clients.submit(ask, client, f"{number}{LARGE}") for number in range(6)
            ]
            wait_for(lambda: site.parts.services.lanes.large.jobs == 6)
            assert len(begun) == 1, "large ones take turns"
            assert ask(client, "small").status_code == 200
            assert ask(client, ["small", "ones"]).status_code == 200
        assert {answer.result(PATIENCE).status_code for answer in large} == {413}


def test_what_waited_past_its_deadline_is_not_tokenized(
    http: tuple[Site, httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, client = http
    body = {"task_id": "news", "inputs": f"late{LARGE}", "parameters": {"timeout_ms": 1}}
    with ThreadPoolExecutor(2) as clients:
        with held(site, monkeypatch) as begun:
            first = clients.submit(ask, client, LARGE)
            wait_for(lambda: len(begun) == 1)
            late = clients.submit(client.post, "/generate", json=body, timeout=PATIENCE)
            wait_for(lambda: site.parts.services.lanes.large.jobs == 2)
            end = site.parts.services.clock() + 0.001
            wait_for(lambda: site.parts.services.clock() >= end)
        assert first.result(PATIENCE).status_code == 413
        assert late.result(PATIENCE).json()["error_type"] == "timeout"
        assert len(begun) == 1
    assert site.parts.services.loop.admission.requests == 0


def test_prompts_of_large_requests_take_turns(
    http: tuple[Site, httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, client = http
    texts = {name: [f"{name}{'y' * 40}"] * 8 for name in "ab"}
    order: list[str] = []
    encode = site.parts.services.tokenizer.try_encode
    both = threading.Event()

    def noted(text: str, most: int) -> tuple[int, ...] | None:
        order.append(text[0])
        if len(order) == 1:
            assert both.wait(PATIENCE)
        return encode(text, most)

    monkeypatch.setattr(site.parts.services.tokenizer, "try_encode", noted)
    monkeypatch.setattr("jumplora_server.api.prompts.SMALL_BYTES", 100)
    with ThreadPoolExecutor(2) as clients:
        answers = [clients.submit(ask, client, texts[name]) for name in "ab"]
        wait_for(lambda: site.parts.services.lanes.large.jobs == 2)
        both.set()
        assert [answer.result(PATIENCE).status_code for answer in answers] == [200, 200]
    first, second = order[0], order[1]
    assert first != second
    assert order == [first, second] * 8


def test_tasks_take_turns_in_a_lane() -> None:
    order: list[str] = []
    go_on = threading.Event()

    def first() -> None:
        assert go_on.wait(PATIENCE)

    async def fill() -> None:
        lane = Lane("test")
        jobs = [asyncio.ensure_future(lane.run("first", first))]
        await asyncio.sleep(0)
        for name in ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]:
            jobs.append(asyncio.ensure_future(lane.run(name[0], partial(order.append, name))))
            await asyncio.sleep(0)
        assert lane.jobs == 8
        jobs[2].cancel()
        await asyncio.sleep(0)
        go_on.set()
        results = await asyncio.gather(*jobs, return_exceptions=True)
        assert [result for result in results if result is not None] == [results[2]]
        assert lane.jobs == 0

    asyncio.run(fill())
    assert order == ["a1", "b1", "c1", "b2", "a3", "a4"], "what was cancelled had its turn"


def test_what_fails_in_a_lane_is_raised_where_it_is_awaited() -> None:
    async def fail() -> None:
        lane = Lane("test")
        with pytest.raises(ValueError, match="'x'"):
            await lane.run(None, partial(int, "x"))
        assert await lane.run(None, partial(int, "5")) == 5

    asyncio.run(fail())


def test_the_common_threads_are_not_needed(http: tuple[Site, httpx.Client]) -> None:
    site, client = http
    go_on = threading.Event()
    stuck: list[Any] = []

    @site.app.get("/console/so/stuck")  # below what needs no key
    async def stuck_route() -> str:
        stuck.append(1)
        await to_thread.run_sync(go_on.wait, PATIENCE)
        return "over"

    with ThreadPoolExecutor(45) as clients:
        try:
            for _ in range(41):
                clients.submit(client.get, "/console/so/stuck", timeout=PATIENCE)
            wait_for(lambda: len(stuck) >= 41)
            assert ask(client, "small").status_code == 200
            assert ask(client, LARGE).status_code == 413
            for path in ("/v1/adapters", "/v1/adapters/news", "/info", "/metrics", "/readyz"):
                assert client.get(path, timeout=PATIENCE).status_code == 200, path
        finally:
            go_on.set()
