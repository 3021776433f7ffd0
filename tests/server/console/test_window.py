"""Which rows of a long table are in the page."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from console_in_node import Console

MOST_ROWS = 100  # of the page, and of an answer of GET /v1/overview
FOUND = st.integers(0, 3000)
HEIGHT = st.integers(100, 80 * 52)  # tasks.css sets the highest one
ROW = st.sampled_from([52, 104, 206])
SHARE = st.floats(0, 1)


def seen(console: Console, share: float, height: int, row: int, found: int) -> dict[str, int]:
    top = share * max(0, found * row - height)
    answer = console.call("window.js", "visibleRows", top, height, row, found)
    assert isinstance(answer, dict)
    return answer


@settings(deadline=None, max_examples=200)
@given(share=SHARE, height=HEIGHT, row=ROW, found=FOUND)
def test_a_window_has_what_is_seen_and_reaches_beyond_it(
    console: Console, share: float, height: int, row: int, found: int
) -> None:
    visible = seen(console, share, height, row, found)
    size = console.call("window.js", "windowSize", height, row)
    start = console.call("window.js", "windowStart", visible, size, found)
    assert 0 < size <= MOST_ROWS
    assert 0 <= start <= max(0, found - 1)
    count = min(size, found - start)
    assert start <= visible["first"]
    assert start + count >= visible["end"]
    assert console.call("window.js", "reaches", start, count, visible, found)


@settings(deadline=None, max_examples=100)
@given(height=HEIGHT, row=ROW, found=st.integers(1, 3000), top=st.floats(0, 1e5), data=st.data())
def test_a_row_that_is_scrolled_to_is_wholly_seen(
    console: Console, height: int, row: int, found: int, top: float, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, found - 1))
    to = console.call("window.js", "scrolledTo", index, top, height, row)
    assert to <= index * row
    if row <= height:
        assert (index + 1) * row <= to + height + 1e-6
        if top <= index * row and (index + 1) * row <= top + height:
            assert to == top


def test_keys_go_from_row_to_row_and_stay_within(console: Console) -> None:
    def to(key: str, index: int) -> object:
        return console.call("window.js", "rowAfter", key, index, 10, 25)

    assert [to("ArrowDown", 3), to("ArrowUp", 3), to("PageDown", 3), to("PageUp", 13)] == [
        4,
        2,
        13,
        3,
    ]
    assert [to("ArrowDown", 24), to("ArrowUp", 0), to("PageDown", 20), to("PageUp", 4)] == [
        24,
        0,
        24,
        0,
    ]
    assert [to("Home", 20), to("End", 3), to("Enter", 3)] == [0, 24, None]


def test_nothing_found_is_nothing_seen(console: Console) -> None:
    assert seen(console, 0, 600, 52, 0) == {"first": 0, "end": 0}
    assert console.call("window.js", "reaches", 0, 0, {"first": 0, "end": 0}, 0)
