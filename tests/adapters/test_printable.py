"""Texts of others: bounded, and nothing in them acts on what shows them."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from jumplora_adapters.printable import printable, shown


@given(st.text(alphabet=st.characters(codec=None), max_size=50))
def test_no_control_and_no_direction_is_left(text: str) -> None:
    for character in printable(text):
        assert unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
        assert unicodedata.bidirectional(character) not in (
            "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
        )  # fmt: skip


def test_what_is_cut_is_counted() -> None:
    assert shown("abc", 3) == "abc"
    assert shown("a\x1bcdef", 3) == "a\\u001bc... (3 more characters)"
