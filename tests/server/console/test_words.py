"""Sentences that the console makes of numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from console_in_node import Console
from jumplora_adapters.manifest import is_task_id


@pytest.mark.parametrize(
    ("change", "tasks", "words"),
    [
        (-0.0421, 3, "lost 4.2 points on average"),
        (0.0155, 2, "gained 1.6 points on average"),
        (-0.0001, 2, "kept what they knew"),
        (None, 2, "not known yet"),
        (None, 1, "nothing could be forgotten"),
    ],
)
def test_backward_transfer(console: Console, change: float | None, tasks: int, words: str) -> None:
    run = {"backward_transfer": change, "tasks": ["task"] * tasks}
    assert words in console.call("runs.js", "transfer", run)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (3599, "59 minutes ago"),
        (7200, "2 hours ago"),
        (86400 * 3 + 5, "3 days ago"),
    ],
)
def test_how_long_ago(console: Console, seconds: float, words: str) -> None:
    assert console.call("events.js", "relative", 0, 1000 * seconds) == words


@pytest.mark.parametrize(
    ("probability", "level"),
    [(0.95, "sure"), (0.6, "likely"), (0.2, "unsure"), (0.02, "unlikely"), (1e-9, "rare")],
)
def test_how_likely_a_token_was(console: Console, probability: float, level: str) -> None:
    assert console.call("tokens.js", "levelOf", math.log(probability)) == level


@pytest.mark.parametrize(
    ("difference", "text"), [(0.0421, "+4.2"), (-0.0421, "−4.2"), (0.0001, "0.0"), (0, "0.0")]
)
def test_points(console: Console, difference: float, text: str) -> None:
    assert console.call("format.js", "points", difference) == text


@pytest.mark.parametrize(
    ("keys", "key", "has_key", "label", "words"),
    [
        ([], "none", False, "Enter a key", "This server has no keys"),
        ([], "unknown", True, "Key not known", "This server has no keys"),
        (["admin"], "none", False, "Enter a key", "answers without a key; an admin key may"),
        (["admin"], "unknown", True, "Key not known", "does not know this key"),
        (["api", "admin"], "none", True, "Key in use", "This tab has a key"),
    ],
)
def test_what_a_key_may(
    console: Console, keys: list[str], key: str, has_key: bool, label: str, words: str
) -> None:
    server = {"keys": keys, "key": key}
    assert console.call("key.js", "labelOf", server, has_key) == label
    assert words in console.call("key.js", "hint", server, has_key)


@pytest.mark.parametrize(
    ("scopes", "tasks", "words"),
    [
        (["infer", "read", "metrics"], None, "which may generate, look and read metrics."),
        (["read"], None, "which may look."),
        (["admin"], None, "which may look and change adapters."),
        (["infer", "read"], ["a-*", "b"], "generate and look. Its tasks are a-*, b."),
    ],
)
def test_what_a_known_key_may(
    console: Console, scopes: list[str], tasks: list[str] | None, words: str
) -> None:
    key = "admin" if "admin" in scopes else "api"
    server = {"keys": ["api"], "key": key, "key_id": "mine", "key_scopes": scopes}
    told = console.call("key.js", "hint", {**server, "key_tasks": tasks}, True)
    assert told.startswith("This tab has the key mine, which may ")
    assert told.endswith(words)
    label = console.call("key.js", "labelOf", server, True)
    assert label == ("Admin key" if key == "admin" else "Reading key")


def test_before_the_first_answer_both_kinds_are_named(console: Console) -> None:
    assert "A key with the scope read may look" in console.call("key.js", "hint", None, False)


@pytest.mark.parametrize(
    ("logarithm", "text"),
    [(-0.1234, "−0.123"), (-0.0004, "0.000"), (-0.0, "0.000"), (0, "0.000"), (-12.5, "−12.500")],
)
def test_logarithms(console: Console, logarithm: float, text: str) -> None:
    assert console.call("format.js", "logarithm", logarithm) == text


@settings(deadline=None)
@given(text=st.text("aZ9._-é \n/", max_size=70) | st.from_regex(r"[A-Za-z0-9._-]{60,66}\Z"))
@example(text="a" * 64)
@example(text="a" * 65)
@example(text="agnews\n")
@example(text="٣")
def test_a_task_id_is_one_for_the_server_too(console: Console, text: str) -> None:
    assert console.call("publish.js", "isTaskId", text) == is_task_id(text)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("set parameters.truncate to 64", "set “Cut the prompt to” to 64"),
        ("parameters.top_p: 2 is too much", "“Top p”: 2 is too much"),
        ("parameters.grammar is not allowed", "parameters.grammar is not allowed"),
        ("give less", "give less"),
    ],
)
def test_a_message_has_the_labels_of_the_page(console: Console, message: str, words: str) -> None:
    assert console.call("wishes.js", "labelled", message) == words
