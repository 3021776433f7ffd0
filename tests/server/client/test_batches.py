"""Batches: how rows become lists, and what both clients do with lists that fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_pair import KINDS, Kind, client_of
from jumplora_server.client import (
    InputRefused,
    KeyRefused,
    Overloaded,
    RequestFailed,
    Row,
    ServerFailed,
    Unreachable,
)
from jumplora_server.client.batches import Plan, one_ahead
from serving import wait_for
from small_http import Said, http_server
from small_lists import SIZE, Server, refused

pytestmark = pytest.mark.parametrize("kind", KINDS)


def test_all_rows_in_order_in_lists_as_long_as_the_server_takes(kind: Kind) -> None:
    texts = [f"row {number}" for number in range(23)]
    server = Server(concurrency=3)
    with http_server(server) as url, client_of(kind, url) as client:
        answered = list(client.batch(texts, task="a", concurrency=3))
        assert list(client.batch([], task="a")) == []
    assert [each.text for each in answered] == [text.upper() for text in texts]
    assert sorted(map(len, server.lists)) == [3, 4, 4, 4, 4, 4]


def test_a_row_that_is_refused_is_found_by_halving(kind: Kind) -> None:
    def too_long(texts: list[str]) -> Said | None:
        return refused(413, "input_too_long") if any(len(text) > 5 for text in texts) else None

    server = Server(too_long)
    with http_server(server) as url, client_of(kind, url) as client:
        answered = list(client.batch(["a", "b", "much too long", "d"], task="a", concurrency=1))
    assert [each.error is None for each in answered] == [True, True, False, True]
    assert isinstance(answered[2].error, InputRefused)
    assert answered[2].row.text == "much too long"
    assert server.lists == [["a", "b", "much too long", "d"], ["a", "b"], ["much too long", "d"],
                            ["much too long"], ["d"]]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "error"),
    [(refused(500, "generation"), ServerFailed), (refused(507, "memory_budget"), ServerFailed)],
)
def test_a_list_that_fails_otherwise_fails_whole(
    kind: Kind, said: Said, error: type[RequestFailed]
) -> None:
    server = Server(lambda texts: said if "b" in texts else None)
    with http_server(server) as url, client_of(kind, url) as client:
        answered = list(client.batch(list("abcdefgh"), task="a", concurrency=1))
    assert [type(each.error) for each in answered[:4]] == [error] * 4
    assert [each.text for each in answered[4:]] == list("EFGH")


def test_a_list_that_takes_too_long_costs_three_deadlines_at_most(kind: Kind) -> None:
    server = Server(lambda texts: refused(504, "timeout") if "b" in texts else None)
    with http_server(server) as url, client_of(kind, url) as client:
        answered = list(client.batch(list("abcd"), task="a", concurrency=1))
        assert [each.error is None for each in answered] == [False, False, True, True]
        assert server.lists == [["a", "b", "c", "d"], ["a", "b"], ["c", "d"]]


ODD: dict[str, Any] = {"n": float("nan")}
DEEP: list[object] = []
for _ in range(5000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "parameters", [ODD, {"n": object()}, {"n": DEEP}, {"n": 1, 2: 3, None: object()}]
)
def test_what_is_not_json_is_the_fault_of_its_row(kind: Kind, parameters: dict[str, Any]) -> None:
    rows = [Row("a"), Row("b", parameters=parameters), Row("c"), Row("d", parameters=parameters)]
    with http_server(Server()) as url, client_of(kind, url) as client:
        answered = list(client.batch(rows, task="a"))
        assert [each.text for each in answered[::2]] == ["A", "C"]
        for each in answered[1::2]:
            assert isinstance(each.error, InputRefused)
            assert (each.error.code, each.error.status) == ("input", 0)
            assert "not JSON" in each.error.message
        with pytest.raises(InputRefused, match="give finite numbers"):
            client.generate("a", "b", parameters=parameters)


def test_a_producer_that_fails_is_heard_behind_its_rows(kind: Kind) -> None:
    def rows() -> Iterator[str]:
        yield from "abcde"
        raise LookupError("no more")

    with http_server(Server()) as url, client_of(kind, url) as client:
        came: list[str] = []
        with pytest.raises(LookupError, match="no more"):
            came.extend(each.text for each in client.batch(rows(), task="a", concurrency=1))
        assert came == list("ABCDE"[: len(came)])
        assert len(came) == 5 or kind == "sync"


def test_a_busy_server_is_waited_for_as_long_as_the_time_allows(kind: Kind) -> None:
    left = 4  # more than a single call's retries

    def busy(texts: list[str]) -> Said | None:
        nonlocal left
        left -= 1
        return refused(429, "task_quota", retry_after="0") if left >= 0 else None

    with http_server(Server(busy)) as url, client_of(kind, url) as client:
        assert [each.text for each in client.batch(list("ab"), task="a")] == ["A", "B"]
        left = 4
        answered = list(client.batch(list("ab"), task="a", parameters={}))
        assert [each.text for each in answered] == ["A", "B"]
    left = 4
    with http_server(Server(busy)) as url, client_of(kind, url, retries=0) as client:
        (answered,) = client.batch(list("a"), task="a")
        assert isinstance(answered.error, Overloaded)
        assert answered.error.code == "task_quota"


def test_what_all_rows_would_get_is_raised_after_the_rows_before_it(kind: Kind) -> None:
    def later(texts: list[str]) -> Said | None:
        return refused(401, "unauthorized") if "e" in texts else None

    with http_server(Server(later)) as url, client_of(kind, url) as client:
        rows, came = client.batch(list("abcdefgh"), task="a", concurrency=1), list[str]()
        with pytest.raises(KeyRefused):
            came.extend(each.text for each in rows)  # extends before the error, too
        assert came == list("ABCD")
    lost = Server(lambda texts: Said(200, b"[]", missing=5))
    with http_server(lost) as url, client_of(kind, url, retries=0) as client:
        with pytest.raises(Unreachable):
            list(client.batch(list("abc"), task="a"))
        with pytest.raises(RequestFailed, match="not answer /generate as a JumpLoRA server"):
            foreign(client, lost)


def foreign(client: Any, server: Server) -> None:
    server._before = lambda texts: Said(200, b"<html>")
    list(client.batch(list("abc"), task="a"))


def test_so_many_requests_at_a_time_and_so_many_rows_in_memory(kind: Kind) -> None:
    lock, most, now, taken = threading.Lock(), 0, 0, 0
    full = threading.Barrier(3)  # the first three requests answer together only

    def meet(texts: list[str]) -> Said | None:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        if int(texts[0]) < 3 * SIZE:
            full.wait(20)
        with lock:
            now -= 1
        return None

    def rows() -> Iterator[str]:
        nonlocal taken
        for number in range(200):
            taken = number + 1
            yield str(number)

    with http_server(Server(meet, concurrency=3)) as url, client_of(kind, url) as client:
        for number, each in enumerate(client.batch(rows(), task="a", concurrency=3)):
            assert each.text == str(number)
            assert taken <= number + 1 + 2 * 3 * SIZE
    assert most == 3


def test_a_batch_that_is_left_asks_no_more(kind: Kind) -> None:
    server = Server(concurrency=2)
    with http_server(server) as url, client_of(kind, url) as client:
        rows = client.batch((str(number) for number in range(10_000)), task="a", concurrency=2)
        assert next(rows).text == "0"
        rows.close()
        client.info()  # what was under way has arrived by then
        assert len(server.lists) <= 4


def test_a_batch_that_is_left_does_not_wait_for_a_busy_server(kind: Kind) -> None:
    def busy(texts: list[str]) -> Said | None:
        return refused(503, "queue_full", retry_after="25") if "5" in texts else None

    server = Server(busy)
    with http_server(server) as url, client_of(kind, url) as client:
        rows = client.batch(list("0123456789"), task="a", concurrency=1)
        assert next(rows).text == "0"
        # The asynchronous client works while something is awaited.
        wait_for(lambda: bool(client.info()) and len(server.lists) >= 2)
        rows.close()  # within the test's time: the busy list would be asked again in 25 s


def test_more_requests_than_a_list_may_have_prompts(kind: Kind) -> None:
    server = Server(concurrency=1)
    with http_server(server) as url, client_of(kind, url) as client:
        answered = list(client.batch(list("abcdefgh"), task="a", concurrency=SIZE + 1))
    assert [each.text for each in answered] == list("ABCDEFGH")
    assert sorted(server.lists) == [[text] for text in "abcdefgh"]


def test_what_is_not_rows(kind: Kind) -> None:
    with http_server(Server()) as url, client_of(kind, url) as client:
        with pytest.raises(TypeError, match="give an iterable of texts"):
            list(client.batch("text", task="a"))
        rows = client.batch(["a", "b", "c", "d", 5], task="a", concurrency=1)
        with pytest.raises(TypeError, match="a row of type int given; give texts"):
            list(rows)


def test_settings_that_make_no_sense(kind: Kind) -> None:
    with client_of(kind, "http://127.0.0.1:1") as client, pytest.raises(ValueError, match="give 1"):
        client.batch([], concurrency=0)


def test_a_row_is_a_text_or_whole(kind: Kind) -> None:
    del kind
    for fields in ({}, {"text": "a", "inputs": "b"}):
        with pytest.raises(ValueError, match="a text or inputs"):
            Row(**fields)  # type: ignore[arg-type]


ROWS = st.builds(
    Row,
    text=st.text(max_size=3),
    inputs=st.none(),
    task=st.sampled_from([None, "a", "b"]),
    parameters=st.sampled_from([None, {}, {"seed": 1, "n": 2}, {"n": 2, "seed": 1}]),
) | st.builds(Row, text=st.none(), inputs=st.text(max_size=3), task=st.sampled_from(["a", "c"]))


@given(st.lists(ROWS, max_size=60), st.integers(1, 5), st.integers(1, 3))
def test_every_row_has_its_place_in_a_list_of_its_kind(
    kind: Kind, rows: list[Row], size: int, concurrency: int
) -> None:
    del kind
    plan = Plan(concurrency, "a", {"seed": 5}, size)
    found: list[Row] = []
    for block in plan.blocks(rows):
        assert len(block.places) <= size * concurrency
        assert sum(len(chunk.rows) for chunk in block.chunks) == len(block.places)
        assert len(set(block.places)) == len(block.places)
        for chunk in block.chunks:
            assert 1 <= len(chunk.rows) <= size
            assert len({(row.task, row.text is None) for row in chunk.rows}) == 1
            assert all(row.parameters == chunk.rows[0].parameters for row in chunk.rows)
        found += [block.chunks[number].rows[place] for number, place in block.places]
    assert [(row.text, row.inputs) for row in found] == [(row.text, row.inputs) for row in rows]
    for given_row, row in zip(rows, found, strict=True):
        assert row.task == (given_row.task or "a")
        assert row.parameters == ({"seed": 5} if given_row.parameters is None else
                                  given_row.parameters)  # fmt: skip


@given(st.lists(st.integers(), max_size=9))
def test_one_ahead(kind: Kind, items: list[int]) -> None:
    del kind
    made: list[int] = []

    def make() -> Iterator[int]:
        for item in items:
            made.append(item)
            yield item

    for number, item in enumerate(one_ahead(make())):
        assert item == items[number]
        assert len(made) == min(number + 2, len(items))
    assert made == items
