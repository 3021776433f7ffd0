"""Asking against canned answers; test_cli_evaluate has it against the real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jumplora_adapters.rows import Row, RowFile
from jumplora_server.client import Client, RequestFailed
from jumplora_server.evaluation.interview import MOST_TRIES, Interview, Transcript
from jumplora_server.evaluation.questions import Sheet, make_sheet
from small_http import Asked, Said, http_server

LIMIT = 10  # characters, which stand for tokens


def sheet_of(*sources: str, labelled: bool = True) -> Sheet:
    rows = tuple(Row(n, source, "yes", labelled) for n, source in enumerate(sources, start=1))
    return make_sheet(RowFile(Path("a.jsonl"), "", rows))


def answered(prompts: list[str]) -> Said:
    details = {
        "finish_reason": "eos_token",
        "prompt_tokens": 1,
        "generated_tokens": 1,
        "seed": None,
        "task_id": "a",
        "adapter_version": "ab" * 32,
    }
    return Said.of([{"generated_text": prompt.upper(), "details": details} for prompt in prompts])


def refused(status: int, code: str, **headers: str) -> Said:
    return Said.of({"error": f"it says {code}", "error_type": code}, status, **headers)


class Server:
    """Answers in capitals; `before` may answer in its place. Refuses what is over LIMIT."""

    def __init__(
        self, before: Callable[[int, dict[str, Any]], Said | None] = lambda n, body: None
    ) -> None:
        self._before = before
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, asked: Asked) -> Said:
        body = asked.json
        self.bodies.append(body)
        canned = self._before(len(self.bodies), body)
        if canned is not None:
            return canned
        prompts = body.get("text") or body["inputs"]
        truncate = body["parameters"].get("truncate")
        if any(len(prompt) > LIMIT for prompt in prompts) and truncate is None:
            return refused(413, "input_too_long")
        return answered([prompt[:truncate] for prompt in prompts])

    def interview(self, sheet: Sheet, *, batch: int = 4, concurrency: int = 1) -> Transcript:
        with http_server(self) as address, Client(address, retries=0) as client:
            interview = Interview(client, "a", sheet, prompt_tokens=LIMIT)
            return interview.run(batch=batch, concurrency=concurrency)


def texts(transcript: Transcript) -> list[str]:
    return [answer.response.generated_text for answer in transcript.answers]


def test_answers_are_in_the_order_of_the_rows_however_many_ask() -> None:
    names = [f"row {n}" for n in range(23)]
    server = Server()
    transcript = server.interview(sheet_of(*names), concurrency=3)
    assert texts(transcript) == [name.upper() for name in names]
    assert len(server.bodies) == len(transcript.latencies) == 6
    assert (server.bodies[0]["task_id"], transcript.retries) == ("a", 0)


@pytest.mark.parametrize(("labelled", "cut"), [(True, "text"), (False, "end")])
def test_only_a_prompt_that_is_too_long_is_cut_and_that_is_noted(labelled: bool, cut: str) -> None:
    server = Server()
    transcript = server.interview(sheet_of("a", "b", "c" * 11, "d", labelled=labelled))
    assert texts(transcript) == ["A", "B", "C" * 10, "D"]
    assert [each.question.cut for each in transcript.answers] == ["whole", "whole", cut, "whole"]
    assert [b["parameters"] for b in server.bodies if b["parameters"]] == [{"truncate": LIMIT}]


def test_what_cutting_does_not_mend_is_told_with_its_line() -> None:
    server = Server(lambda n, body: refused(413, "input_too_long"))
    with pytest.raises(
        RequestFailed, match=r"input_too_long \(line 2 of a\); 0 of 1 rows"
    ) as caught:
        server.interview(make_sheet(RowFile(Path("a"), "", (Row(2, "x", "y", True),))))
    assert caught.value.code == "input_too_long"


def test_a_list_with_too_many_bytes_is_halved() -> None:
    def small_bodies(n: int, body: dict[str, Any]) -> Said | None:
        return refused(413, "body_too_large") if len(body["text"]) > 1 else None

    assert texts(Server(small_bodies).interview(sheet_of("a", "b", "c"))) == ["A", "B", "C"]
    with pytest.raises(RequestFailed, match=r"body_too_large \(line 1 of a.jsonl\)"):
        Server(lambda n, body: refused(413, "body_too_large")).interview(sheet_of("a"))


def test_an_answer_that_is_missing_is_an_error() -> None:
    server = Server(lambda n, body: answered(["a"]))
    with pytest.raises(RequestFailed, match=r"1 answers came to 2 prompts.* \(lines 1 to 2"):
        server.interview(sheet_of("a", "b"))


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    headers = {"retry_after": "0"}
    server = Server(lambda n, body: refused(status, "busy", **headers) if n in (2, 3) else None)
    transcript = server.interview(sheet_of(*"abcdefgh"), batch=2)
    assert texts(transcript) == list("ABCDEFGH")
    assert (transcript.retries, len(server.bodies), len(transcript.latencies)) == (2, 6, 4)


def test_a_server_that_stays_busy_ends_it_and_how_far_it_came_is_told() -> None:
    headers = {"retry_after": "0"}
    server = Server(lambda n, body: refused(503, "queue_full", **headers) if n > 2 else None)
    with pytest.raises(RequestFailed) as caught:
        server.interview(sheet_of(*"abcdefgh"), batch=2)
    assert caught.value.message == (
        "it says queue_full (lines 5 to 6 of a.jsonl); 4 of 8 rows were answered until then"
    )
    assert (caught.value.code, caught.value.status) == ("queue_full", 503)
    assert len(server.bodies) == 2 + MOST_TRIES


def test_a_failure_wakes_who_waits() -> None:
    # The first waits for half a minute; the second fails for good.
    def answer(n: int, body: dict[str, Any]) -> Said:
        if body["text"] == ["a"]:
            return refused(503, "queue_full", **{"retry_after": "30"})
        return refused(404, "unknown_task")

    with pytest.raises(RequestFailed, match="unknown_task"):
        Server(answer).interview(sheet_of("a", "b"), batch=1, concurrency=2)
