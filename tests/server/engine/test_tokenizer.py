"""Encoding with eos and truncation; text that appears piece by piece equals the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factories import tiny_tokenizer
from jumplora_adapters.errors import DataError
from jumplora_server.core import NoEmbedding
from jumplora_server.engine.tokenizer import Tokenizer
from jumplora_server.scheduler.text import OutputText

BYTES = Tokenizer(tiny_tokenizer(512, style="mt5"), eos_token_id=1)


def test_encode_ends_with_eos_and_truncation_keeps_it() -> None:
    whole = BYTES.encode("the cat sat on the mat")
    assert whole[-1] == 1
    assert whole.count(1) == 1
    cut = BYTES.encode("the cat sat on the mat", truncate_to=4)
    assert cut == (*whole[:3], 1)
    assert BYTES.encode("the cat", truncate_to=100) == BYTES.encode("the cat")


def test_a_character_of_several_tokens_is_held_back_until_whole() -> None:
    ids = BYTES.encode("é")[:-1]
    detokenizer = BYTES.detokenizer()
    pieces = [detokenizer.push(token) for token in ids]
    assert "�" not in "".join(pieces)
    assert "".join(pieces) + detokenizer.flush() == "é"


def test_an_unfinished_character_is_flushed_at_the_end() -> None:
    ids = BYTES.encode("aé")[:-2]  # without eos and the character's last byte
    detokenizer = BYTES.detokenizer()
    streamed = "".join(detokenizer.push(token) for token in ids)
    assert streamed == "a"
    assert streamed + detokenizer.flush() == BYTES.decode(list(ids))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 511), max_size=24))
def test_streamed_pieces_add_up_to_the_whole_text(ids: list[int]) -> None:
    detokenizer = BYTES.detokenizer()
    streamed = "".join(detokenizer.push(token) for token in ids) + detokenizer.flush()
    assert streamed == BYTES.decode(ids)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 511), st.booleans()), max_size=24))
def test_held_tokens_come_with_a_later_piece(ids: list[tuple[int, bool]]) -> None:
    detokenizer = BYTES.detokenizer()
    streamed = ""
    for token, is_held in ids:
        if is_held:
            detokenizer.hold(token)
        else:
            streamed += detokenizer.push(token)
    assert streamed + detokenizer.flush() == BYTES.decode([token for token, _ in ids])


@pytest.mark.parametrize("between", [(0,), (1,), (0, 1, 0)], ids=["pad", "eos", "several"])
def test_bytes_on_both_sides_of_a_control_token_are_one_character(between: tuple[int, ...]) -> None:
    vocabulary = tiny_tokenizer(512, style="mt5").get_vocab()
    first, second = vocabulary["<0xC3>"], vocabulary["<0xA9>"]
    ids = [first, *between, second]
    assert BYTES.decode(ids) == "\u00e9"
    detokenizer = BYTES.detokenizer()
    assert "".join(map(detokenizer.push, ids)) + detokenizer.flush() == "\u00e9"


def _metaspace(cleans: bool) -> Tokenizer:
    return Tokenizer(tiny_tokenizer(512), eos_token_id=1, cleans_spaces=cleans)


# Words, lone spaces, punctuation, control tokens, and ids without a token.
SPECIAL_TEXT = ("▁good", "▁film", "▁", "▁", ".", "'", "t", "n", "s", "<unk>", "</s>")
ODD_IDS = [*map(tiny_tokenizer(512).get_vocab().__getitem__, SPECIAL_TEXT), 512, 513]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(ODD_IDS), max_size=12), st.booleans(), st.sampled_from([1, 3]))
def test_ids_without_text_leave_pieces_and_stop_strings_as_the_whole(
    ids: list[int], cleans: bool, stop_size: int
) -> None:
    tokenizer = _metaspace(cleans)
    whole = tokenizer.decode(ids)
    detokenizer = tokenizer.detokenizer()
    assert "".join(map(detokenizer.push, ids)) + detokenizer.flush() == whole
    # A stop string is found in the streamed text where it is in the whole one.
    stop = whole[len(whole) // 2 :][:stop_size]
    if stop:
        output = OutputText(tokenizer.detokenizer(), (stop,))
        shown = ""
        for token in ids:
            shown += output.push(token)
            if output.is_stopped:
                break
        else:
            shown += output.flush()
        assert shown == whole[: whole.index(stop)]


def test_a_prompt_that_needs_a_token_without_a_row_is_refused() -> None:
    raw = tiny_tokenizer(512)
    raw.add_tokens(["newtok"])
    tokenizer = Tokenizer(raw, eos_token_id=1, rows=512)
    assert tokenizer.encode("good film") == tuple(raw.encode("good film").ids)
    with pytest.raises(NoEmbedding, match="token 512 has no row in the embedding, which has 512"):
        tokenizer.encode("good newtok film")
    with pytest.raises(NoEmbedding):
        tokenizer.try_encode("newtok", 64)
    # What is cut off is not needed.
    assert tokenizer.encode("good film newtok", truncate_to=3)[-1] == 1


def test_control_tokens_have_no_text() -> None:
    detokenizer = BYTES.detokenizer()
    assert [detokenizer.push(token) for token in (0, 1)] == ["", ""]
    assert detokenizer.is_special(1)
    assert not detokenizer.is_special(BYTES.encode("the")[0])


def test_a_folder_without_tokenizer_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="import-backbone"):
        Tokenizer.load(tmp_path)


def test_a_broken_tokenizer_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.load(tmp_path)
