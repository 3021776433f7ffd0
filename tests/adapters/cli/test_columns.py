"""Tables in a limited width: nothing is wider than it, nothing is lost, numbers stay whole."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from jumplora_adapters.cli.columns import Column, fitted, folded, split_columns, unlimited

WORDS = st.text(alphabet="abcdeé文-_/.", min_size=1, max_size=40)
TEXTS = st.lists(WORDS, min_size=1, max_size=6).map(" ".join)
NUMBERS = st.floats(-1000, 1000).map(lambda value: f"{value:+.1f} ± 0.4 %")


@given(TEXTS, st.integers(8, 60), st.sampled_from(["", "  "]))
def test_folded_lines_fit_and_keep_every_character(text: str, width: int, indent: str) -> None:
    lines = folded(text, width, indent=indent)
    assert max(map(cell_len, lines)) <= width
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(line.startswith(indent) for line in lines[1:])


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("as it is", 8, ["as it is"]),
        ("customer-support-tickets", 16, ["customer-", "support-tickets"]),
        ("a_name_without_end", 7, ["a_name_", "without", "_end"]),
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("lost 20.0 ± 0.1 % of it", 18, ["lost 20.0 ± 0.1 %", "of it"]),
        ("文文文文", 5, ["文文", "文文"]),
    ],
)
def test_where_lines_end(text: str, width: int, lines: list[str]) -> None:
    assert folded(text, width) == lines


@st.composite
def tables(draw: st.DrawFn) -> list[Column]:
    rows = draw(st.integers(1, 4))

    def of(cells: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
        return st.lists(cells, min_size=rows, max_size=rows).map(tuple)

    left = st.builds(Column, TEXTS, of(TEXTS), st.just(False))
    right = st.builds(Column, WORDS.filter(lambda w: cell_len(w) < 20), of(NUMBERS), st.just(True))
    return [draw(left), *draw(st.lists(st.one_of(left, right), max_size=9))]


@given(tables(), st.integers(60, 100))
def test_a_table_fits_and_loses_nothing(columns: list[Column], width: int) -> None:
    parts = fitted(columns, width)
    assert max(cell_len(line) for lines in parts for line in lines) <= width
    shown = "".join(line for lines in parts for line in lines)
    told = Counter(character for character in shown if character not in " ─")
    for column in columns:
        if column.is_right:
            for cell in column.cells:
                assert cell in shown, "a number is never folded"
        assert all(told[c] >= n for c, n in Counter("".join(column.cells)).items() if c != " ")


def test_keys_stand_in_every_part() -> None:
    names = Column("name", ("first", "second"))
    numbers = [Column(f"column{n}", ("100.00 ± 1.00", "2"), is_right=True) for n in range(7)]
    parts = fitted([names, *numbers], 60)
    assert [len(lines[0].split()) for lines in parts] == [3, 3, 4]  # the name, and two or three
    for lines in parts:
        assert lines[2].split()[0] == "first"
        assert lines[3].split()[0] == "second"
    assert [name for lines in parts for name in lines[0].split() if name != "name"] == [
        f"column{n}" for n in range(7)
    ]


def test_with_room_nothing_is_folded() -> None:
    columns = [Column("task", ("a name of words",)), Column("rows", ("1",), is_right=True)]
    assert fitted(columns, 80) == [unlimited(columns)]
    assert unlimited(columns) == [
        " task             rows",
        " ─────────────────────",
        " a name of words     1",
    ]


@pytest.mark.parametrize(
    ("widths", "keys", "parts"),
    [
        ([4, 3, 3], 1, [[0, 1, 2]]),
        ([4, 8, 8, 8, 8], 1, [[0, 1, 2], [0, 3, 4]]),
        ([4, 8, 8, 8, 8, 8], 1, [[0, 1], [0, 2, 3], [0, 4, 5]]),
        ([4, 4, 8, 30], 2, [[0, 1, 2], [0, 1, 3]]),
        ([4], 1, [[0]]),
    ],
)
def test_parts_of_a_table(widths: list[int], keys: int, parts: list[list[int]]) -> None:
    assert split_columns(widths, 24, keys=keys, gap=2) == parts
