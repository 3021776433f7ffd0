"""What the console says of a staged version, of names of versions, and of what a key may."""

from __future__ import annotations

from typing import Any

import pytest

from console_in_node import Console

OLD, NEW, OTHER = "1" * 64, "2" * 64, "3" * 64
FAILURE = {"code": "load", "message": "it does not load", "retry_in": None}
LOOKED = {"looks": 2, "verdict": "no_fault"}
NOT_LOOKED = {"looks": 0, "verdict": "too_few_requests"}


def staged(**fields: Any) -> dict[str, Any]:
    found = {"version": NEW, "share": 0.1, "is_open": True, "failure": None, "promote_after": None}
    return {**found, **fields}


@pytest.mark.parametrize(
    ("fields", "text", "tone"),
    [
        ({}, "staged 10 %", "warn"),
        ({"share": 0.125}, "staged 12.5 %", "warn"),
        ({"share": 0}, "staged 0 %", "warn"),
        ({"is_open": False}, "staged, loads", "warn"),
        ({"is_open": False, "failure": FAILURE}, "staged, fails", "bad"),
        ({"failure": "load"}, "staged, fails", "bad"),
    ],
)
def test_the_mark(console: Console, fields: dict[str, Any], text: str, tone: str) -> None:
    assert console.call("staged.js", "markOf", staged(**fields)) == {"text": text, "tone": tone}


@pytest.mark.parametrize(
    ("fields", "comparison", "text"),
    [
        ({}, NOT_LOOKED, "It gets 10 % of the requests. Too few of its requests have ended"),
        ({}, LOOKED, "It was judged 2 times, and no fault was found."),
        ({"share": 0}, NOT_LOOKED, "It gets only requests that name it."),
        ({"promote_after": 5400}, LOOKED, "by itself 1 h 30 min after it was staged, if no fault"),
        ({"is_open": False}, NOT_LOOKED, "loaded and tried now; then it gets 10 % of the requests"),
        ({"failure": FAILURE}, NOT_LOOKED, "It gets no requests: it does not load."),
    ],
)
def test_how_it_stands(
    console: Console, fields: dict[str, Any], comparison: dict[str, Any], text: str
) -> None:
    detail = {"staged": staged(**fields), "comparison": comparison}
    assert text in console.call("staged.js", "standing", detail)


@pytest.mark.parametrize(
    ("requests", "failed", "p95", "canaries", "cells"),
    [
        (1200, 0, 0.0359, 1, ["1,200", "0", "35.9 ms", "100 %"]),
        (40, 3, None, 0.75, ["40", "3 (7.5 %)", "–", "75 %"]),
        (0, 0, None, None, ["0", "0", "–", "–"]),
    ],
)
def test_its_figures(
    console: Console,
    requests: int,
    failed: int,
    p95: float | None,
    canaries: float | None,
    cells: list[str],
) -> None:
    figures = {"requests": requests, "failed": failed, "p95_seconds": p95}
    assert console.call("staged.js", "figuresOf", figures, canaries) == cells


def test_the_current_versions_canaries(console: Console) -> None:
    replies = [{"is_right": right} for right in (True, False, None)]
    assert console.call("staged.js", "canariesOf", {"canaries": replies}) == 0.5
    assert console.call("staged.js", "canariesOf", {"canaries": replies[2:]}) is None


def test_versions_are_listed_with_what_they_are(console: Console) -> None:
    names = {"champion": OLD, "night": NEW}
    detail = {
        "version": OLD,
        "desired": OLD,
        "history": [NEW, OTHER, OLD],
        "staged": staged(),
        "aliases": names,
    }
    assert console.call("versions.js", "inOrder", detail) == [NEW, OLD, OTHER]
    words = [console.call("subject.js", "wordsOf", each[:12], detail) for each in (NEW, OLD, OTHER)]
    assert words == [["staged 10 %", "night"], ["current", "champion"], []]
    assert console.call("subject.js", "unnamed", detail) == "current or staged"
    shown = {**detail, "staged": staged(share=0)}
    assert console.call("subject.js", "unnamed", shown) == "current (11111111)"
    behind = {**detail, "staged": None, "desired": OTHER}
    assert console.call("subject.js", "wordsOf", OTHER[:12], behind) == ["published last"]
    assert console.call("subject.js", "wordsOf", OTHER[:12], None) == []


@pytest.mark.parametrize(
    ("keys", "scopes", "may"),
    [
        (["api", "admin"], ["infer", "read"], True),
        (["api", "admin"], ["read", "admin"], False),
        (["admin"], [], True),
        ([], [], True),
    ],
)
def test_who_may_generate(console: Console, keys: list[str], scopes: list[str], may: bool) -> None:
    server = {"keys": keys, "key_scopes": scopes}
    assert console.call("key.js", "mayGenerate", server) is may


@pytest.mark.parametrize(
    ("status", "has_key", "text"),
    [
        (401, False, "Enter one to look"),
        (401, True, "The server refused this key: why."),
        (403, True, "looks at the server, which this key may not do: why. Enter another key."),
    ],
)
def test_why_another_key_is_wanted(console: Console, status: int, has_key: bool, text: str) -> None:
    error = {"status": status, "message": "why"}
    assert text in console.call("key.js", "demandOf", error, has_key)


@pytest.mark.parametrize(
    ("message", "kind", "after", "hint"),
    [
        ("it is 1 ahead: try again in 16 s", "key_quota", 16, None),
        ("the queue is full", "queue_full", 2, "Try again in 2 s."),
        ("no such task", "unknown_task", None, "Choose a task from the list."),
    ],
)
def test_a_refusal_says_once_what_to_do(
    console: Console, message: str, kind: str, after: int | None, hint: str | None
) -> None:
    error = {"message": message, "type": kind, "retryAfter": after}
    assert console.call("refusal.js", "hintOf", error) == hint
