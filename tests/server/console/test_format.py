"""Numbers, times and names as the console writes them."""

from __future__ import annotations

import re
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console_in_node import Console

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@pytest.mark.parametrize(
    ("function", "given_", "text"),
    [
        ("bytes", 0, "0 B"),
        ("bytes", 999, "999 B"),
        ("bytes", 1024, "1.02 kB"),
        ("bytes", 709_400, "709 kB"),
        ("bytes", 1_179_116, "1.18 MB"),
        ("bytes", 24 * 10**9, "24 GB"),
        ("bytes", None, "–"),
        ("seconds", 0.0123, "12.3 ms"),
        ("seconds", 0.181, "181 ms"),
        ("seconds", 1.5, "1.5 s"),
        ("seconds", 90, "1.5 min"),
        ("seconds", None, "–"),
        ("roughSeconds", 0.0123, "12 ms"),
        ("roughSeconds", 0.181, "180 ms"),
        ("roughSeconds", 1.56, "1.6 s"),
        ("roughSeconds", 0, "0 ms"),
        ("roughSeconds", None, "–"),
        ("percent", 0.16521, "16.5 %"),
        ("percent", 1, "100.0 %"),
        ("percent", 0, "0.0 %"),
        ("percent", 0.93, "93.0 %"),
        ("percent", 0.0001, "<0.1 %"),
        ("percent", None, "–"),
        ("rate", 0, "0"),
        ("rate", 0.004, "<0.01"),
        ("rate", 12.34, "12.3"),
        ("duration", 0.4, "0 s"),
        ("duration", 59, "59 s"),
        ("duration", 3600, "1 h"),
        ("duration", 93_784, "1 d 2 h"),
        ("digits", "367490ff0752f09d", "367490ff"),
        ("digits", None, ""),
        ("when", "", "–"),
        ("when", "last week", "last week"),
        ("words", "test_exact_match", "test exact match"),
        (
            "moduleName",
            "decoder.block.3.layer.1.EncDecAttention.q",
            "decoder 3 · EncDecAttention.q",
        ),
        ("moduleName", "lm_head", "lm_head"),
    ],
)
def test_texts(console: Console, function: str, given_: object, text: str) -> None:
    assert console.call("format.js", function, given_) == text


@settings(deadline=None, max_examples=200)
@given(count=st.integers(0, 10**14))
def test_bytes_are_within_half_a_percent(console: Console, count: int) -> None:
    text = console.call("format.js", "bytes", count)
    number, unit = text.split(" ")
    assert abs(float(number) * UNITS[unit] - count) <= 0.0051 * count
    assert len(re.sub(r"\D", "", number)) <= 4


@settings(deadline=None, max_examples=200)
@given(value=st.floats(1e-6, 1e6))
def test_short_numbers_are_within_a_half_percent_of_a_digit(console: Console, value: float) -> None:
    text = console.call("format.js", "short", value)
    assert abs(float(text) - value) <= 0.051 * value
    assert "e" not in text


def test_a_count_and_its_noun(console: Console) -> None:
    counted = [console.call("format.js", "counted", n, "task") for n in (0, 1, 12_345)]
    assert counted == ["0 tasks", "1 task", "12,345 tasks"]


@pytest.mark.parametrize(
    ("now", "text"),
    [
        ("2026-11-28T23:59:59", "09:05:02"),
        ("2026-11-29T00:00:00", "2026-11-28 09:05"),
        ("2027-11-28T09:05:02", "2026-11-28 09:05"),
    ],
)
def test_times_of_today_have_no_day(console: Console, now: str, text: str) -> None:
    at = datetime.fromisoformat("2026-11-28T09:05:02").astimezone()  # where the reader lives
    then = datetime.fromisoformat(now).timestamp() * 1000
    assert console.call("format.js", "when", at.isoformat(), then) == text
