"""When two texts count as the same answer."""

from __future__ import annotations

import pytest

from jumplora_adapters.folding import folded


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("Sports", "sports", id="case"),
        pytest.param(" two\t\nwords ", "two words", id="white space"),
        pytest.param("Sci/Tech.", "sci/tech.", id="punctuation stays"),
        pytest.param(" \n", "", id="nothing"),
    ],
)
def test_folded(text: str, expected: str) -> None:
    assert folded(text) == expected
