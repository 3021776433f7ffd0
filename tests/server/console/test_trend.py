"""The small curves of the console."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console_in_node import Console

WIDTH, HEIGHT, PAD = 72, 20, 2
VALUES = st.lists(st.none() | st.floats(0, 1e6), max_size=60)


def pieces(path: str) -> list[tuple[str, float, float]]:
    found = re.findall(r"([ML])([\d.]+) ([\d.]+)(?:h0)?", path)
    return [(letter, float(x), float(y)) for letter, x, y in found]


@settings(deadline=None, max_examples=200)
@given(values=VALUES)
def test_each_number_is_a_point_in_the_box_and_each_gap_lifts_the_pen(
    console: Console, values: list[float | None]
) -> None:
    drawn = pieces(console.call("trend.js", "linePath", values, WIDTH, HEIGHT))
    numbers = [value for value in values if value is not None]
    assert len(drawn) == len(numbers)
    starts = [
        index == 0 or values[index - 1] is None
        for index, value in enumerate(values)
        if value is not None
    ]
    assert [letter == "M" for letter, _, _ in drawn] == starts
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for _, x, y in drawn)
    for value, (_, _, y) in zip(numbers, drawn, strict=True):
        share = value / max(numbers) if max(numbers) > 0 else 0
        assert abs(y - (HEIGHT - PAD - share * (HEIGHT - 2 * PAD))) <= 0.051


@pytest.mark.parametrize(
    ("values", "dots"),
    [
        ([None, 2.0, None, 1.0, 2.0, None, 3.0, 2.0, 1.0], [1, 3, 4]),
        ([None, None, 1.0], [2]),
        ([1.0], [0]),
        ([1.0, 2.0, 3.0], []),
        ([None], []),
        ([], []),
    ],
)
def test_what_is_hardly_a_line_is_dots_on_it(
    console: Console, values: list[float | None], dots: list[int]
) -> None:
    line = pieces(console.call("trend.js", "linePath", values, WIDTH, HEIGHT))
    drawn = console.call("trend.js", "dotPath", values, WIDTH, HEIGHT)
    places = [index for index, value in enumerate(values) if value is not None]
    assert pieces(drawn) == [("M", *line[places.index(index)][1:]) for index in dots]
    assert drawn.count("h0") == len(dots)  # a line of no length, which its round ends make a dot


def test_waits_grow_and_end_at_half_a_minute(console: Console) -> None:
    waits = [console.call("poll.js", "waitAfter", failures) for failures in (0, 1, 2, 3, 4, 5, 40)]
    assert waits == [2000, 4000, 8000, 16000, 30000, 30000, 30000]
