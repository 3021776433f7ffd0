"""Log lines: one a record, columns from `fields`."""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata
import warnings
from typing import Literal

import pytest

from jumplora_adapters.printable import printable
from jumplora_server import logs


def test_json_lines() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    logging.getLogger("a").info("hello %s", "you\n2nd", extra={"fields": {"status": 200}})
    logging.getLogger("a").debug("not this")
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert record.pop("time").endswith("Z")
    assert record == {"level": "info", "logger": "a", "message": "hello you\n2nd", "status": 200}


def test_a_traceback_stays_on_its_json_line() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("a").exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: inner" in json.loads(line)["traceback"]


def test_text_lines_cannot_be_forged() -> None:
    stream = io.StringIO()
    logs.configure("text", "warning", stream)
    logging.getLogger("a").warning("one\ntwo", extra={"fields": {"ms": 1.5}})
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("WARNING a one\\ntwo ms=1.5")


def test_the_http_server_logs_to_the_same_place() -> None:
    stream = io.StringIO()
    logs.configure("text", "info", stream)
    logging.getLogger("uvicorn.error").info("started")
    assert stream.getvalue().count("started") == 1


def test_warnings_are_lines_too() -> None:
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure("text", "info", stream)
        warnings.warn("of \x1b a file", UserWarning, stacklevel=1)
    assert "UserWarning: of \\u001b a file" in stream.getvalue()


def test_no_character_of_an_acting_kind_is_shown() -> None:
    kinds = ("Cc", "Cf", "Zl", "Zp", "Cs")
    everything = [chr(code) for code in range(sys.maxunicode + 1)]
    acting = "".join(c for c in everything if unicodedata.category(c) in kinds)
    assert printable(acting).isascii()
    plain = "".join(c for c in everything if unicodedata.category(c) not in kinds)
    assert printable(plain) == plain
    assert printable("\U000e0041\x7f\n") == r"\U000e0041\u007f\n"


HOSTILE = "a\x1b[31m\u202e\x85\u2028b\r\nc"


def test_nothing_in_a_text_line_acts_on_a_terminal() -> None:
    stream = io.StringIO()
    logs.configure("text", "info", stream)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("a").exception("of %s", HOSTILE, extra={"fields": {"task": HOSTILE}})
    text = stream.getvalue()
    assert all(character.isprintable() for character in text if character != "\n")
    first, *traceback = text.splitlines()
    assert first.count("\\u202e") == 2
    assert traceback[0] == "Traceback (most recent call last):"


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_has_an_end(form: Literal["text", "json"]) -> None:
    stream = io.StringIO()
    logs.configure(form, "info", stream)
    huge = "x" * 1_000_000
    try:
        raise ValueError(huge)
    except ValueError:
        logging.getLogger("a").exception(huge, extra={"fields": {"task": huge}})
    assert len(stream.getvalue()) < 80_000
    assert "more characters" in stream.getvalue()
