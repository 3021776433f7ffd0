"""The ring of events: its order, its limits, and what a text may be."""

from __future__ import annotations

import threading
from itertools import count

import pytest

from jumplora_server.events import MOST_CHARACTERS, MOST_EVENTS, Event, Events

DIGEST = "0123456789ab" + "c" * 52


def test_the_newest_come_first_with_their_times() -> None:
    times = count(1.75e9)
    events = Events(lambda: next(times))
    events.add("server", "It started.")
    events.add("loaded", "It was loaded.", task="a", version=DIGEST)
    assert events.newest() == [
        Event(1.75e9 + 1, "loaded", "a", DIGEST, "It was loaded."),
        Event(1.75e9, "server", None, None, "It started."),
    ]


def test_the_oldest_go() -> None:
    events = Events()
    for number in range(MOST_EVENTS + 5):
        events.add("loaded", str(number))
    texts = [event.text for event in events.newest()]
    assert texts == [str(number) for number in range(MOST_EVENTS + 4, 4, -1)]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"version {DIGEST} is gone", "version 0123456789ab is gone"),
        (f"{DIGEST}/{DIGEST}", "0123456789ab/0123456789ab"),
        ("two\nlines\tand\r\n more ", "two lines and more"),
        ("12345678901234567890 bytes", "12345678901234567890 bytes"),
        ("x" * MOST_CHARACTERS, "x" * MOST_CHARACTERS),
        ("x" * (MOST_CHARACTERS + 1), "x" * (MOST_CHARACTERS - 1) + "…"),
    ],
)
def test_a_text_is_one_bounded_line(text: str, kept: str) -> None:
    events = Events()
    events.add("failed", text)
    assert [event.text for event in events.newest()] == [kept]


def test_threads_may_add_while_others_read() -> None:
    events = Events()

    def add(kind: str) -> None:
        for number in range(200):
            events.add("pinned", f"{kind}{number}")
            events.newest()

    threads = [threading.Thread(target=add, args=(kind,)) for kind in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    texts = [event.text for event in reversed(events.newest())]
    for kind in "abcd":
        own = [text for text in texts if text.startswith(kind)]
        assert own == [f"{kind}{number}" for number in range(200)]
