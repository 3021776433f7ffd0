"""Detokenized text and stop strings: against a search of the whole text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import ByteDetokenizer, FakeDetokenizer
from jumplora_server.scheduler.text import OutputText


def run(pieces: list[str], stops: tuple[str, ...]) -> tuple[list[str], bool]:
    """What is shown after each piece (and at the end), and whether a stop string was found."""

    class Pieces(FakeDetokenizer):
        def push(self, token_id: int) -> str:
            return pieces[token_id]

    text = OutputText(Pieces(), stops)
    shown: list[str] = []
    for index in range(len(pieces)):
        shown.append(text.push(index))
        if text.is_stopped:
            return shown, True
    shown.append(text.flush())
    return shown, text.is_stopped


def cut(whole: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """Slow reference: the text before the stop string that is complete first."""
    for end in range(len(whole) + 1):
        starts = [end - len(stop) for stop in stops if whole[:end].endswith(stop)]
        if starts:
            return whole[: min(starts)], True
    return whole, False


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "is_stopped"),
    [
        pytest.param(["ab", "cd"], (), ["ab", "cd", ""], False, id="no stop strings"),
        pytest.param(["ab", "cd"], ("bc",), ["a", ""], True, id="across a border"),
        pytest.param(["ab", "xd"], ("bc",), ["a", "bxd", ""], False, id="held back, then shown"),
        pytest.param(["ab"], ("bc",), ["a", "b"], False, id="held back to the end"),
        pytest.param(["aab"], ("ab",), ["a"], True, id="overlapping start"),
        pytest.param(["xabcy"], ("c", "abc"), ["x"], True, id="same end: the longer one"),
        pytest.param(["ab", "c"], ("abc", "b"), ["a"], True, id="complete first wins"),
        pytest.param(["STOP"], ("STOP",), [""], True, id="at once"),
    ],
)
def test_cases(
    pieces: list[str], stops: tuple[str, ...], shown: list[str], is_stopped: bool
) -> None:
    assert run(pieces, stops) == (shown, is_stopped)


@given(
    st.lists(st.text("ab", max_size=3), max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_equals_a_search_of_the_whole_text(pieces: list[str], stops: tuple[str, ...]) -> None:
    shown, is_stopped = run(pieces, stops)
    assert ("".join(shown), is_stopped) == cut("".join(pieces), stops)


@given(st.text("aé€", max_size=6), st.integers(0, 12))
def test_half_characters_wait_for_their_other_half(whole: str, end: int) -> None:
    content = whole.encode()[:end]
    text = OutputText(ByteDetokenizer(), ())
    shown = [text.push(byte) for byte in content]
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in shown)
    assert "".join(shown) + text.flush() == content.decode(errors="replace")


def test_a_stop_string_may_end_in_the_flushed_text() -> None:
    text = OutputText(ByteDetokenizer(), ("b\N{REPLACEMENT CHARACTER}",))
    assert [text.push(byte) for byte in "abé".encode()[:-1]] == ["a", "", ""]
    assert text.flush() == ""
    assert text.is_stopped


@given(st.text("aé€", max_size=6), st.sampled_from([(), ("é",)]))
def test_text_that_nobody_waits_for_comes_at_the_end(whole: str, stops: tuple[str, ...]) -> None:
    text = OutputText(ByteDetokenizer(), stops, in_pieces=False)
    shown = ""
    for byte in whole.encode():
        shown += text.push(byte)
        if text.is_stopped:
            break
    assert stops or not shown
    if not text.is_stopped:
        shown += text.flush()
    assert (shown, text.is_stopped) == cut(whole, stops)
