"""Cleaned-up spaces: as transformers does it, whole and in pieces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE

from factories import tiny_t5, tiny_tokenizer
from jumplora_adapters.decoding import (
    SpaceCleaner,
    TextDecoder,
    Undecodable,
    clean_up_spaces,
    cleans_spaces,
)
from jumplora_adapters.errors import BackboneError
from jumplora_adapters.tokenizer import load_tokenizer

PARTS = [" ", "'", ".", "?", "!", ",", "n", "t", "m", "s", "v", "r", "e", "x", " n't", " ' ", "\n"]


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=14))
def test_pieces_add_up_to_the_whole(pieces: list[str]) -> None:
    cleaner = SpaceCleaner()
    streamed = "".join(map(cleaner.push, pieces)) + cleaner.flush()
    assert streamed == clean_up_spaces("".join(pieces))


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=14).map("".join))
def test_a_text_is_cleaned_as_transformers_does(text: str) -> None:
    from transformers import PreTrainedTokenizerFast

    assert clean_up_spaces(text) == PreTrainedTokenizerFast.clean_up_tokenization(None, text)


def test_ordinary_words_are_not_held_back() -> None:
    cleaner = SpaceCleaner()
    assert [cleaner.push(piece) for piece in ("the", " film", " was", " not", " ", "good", " .")] \
        == ["the", " film", " was", " not", "", " good", "."]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(None, False, id="no file"),
        pytest.param({}, False, id="absent, as transformers 5 takes it"),
        pytest.param({"clean_up_tokenization_spaces": None}, False, id="null"),
        pytest.param({"clean_up_tokenization_spaces": False}, False, id="off"),
        pytest.param({"clean_up_tokenization_spaces": True}, True, id="on"),
    ],
)
def test_tokenizer_config_decides(
    config: dict[str, object] | None, expected: bool, tmp_path: Path
) -> None:
    tiny_t5(tmp_path)
    raw = tiny_tokenizer()
    raw.save(str(tmp_path / "tokenizer.json"))
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert cleans_spaces(tmp_path, raw) is expected
    vocabulary = raw.get_vocab()
    ids = [vocabulary[piece] for piece in ("▁good", "▁", ".")]
    text = load_tokenizer(tmp_path).decoder.decode_all([ids])
    assert text == ["good." if expected else "good ."]


def test_bpe_is_cleaned_only_where_it_is_asked_twice(tmp_path: Path) -> None:
    config: dict[str, object] = {"clean_up_tokenization_spaces": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert not cleans_spaces(tmp_path, Tokenizer(BPE()))
    config["clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"] = True
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert cleans_spaces(tmp_path, Tokenizer(BPE()))


def test_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"clean_up_tokenization_spaces": "yes"}')
    with pytest.raises(BackboneError, match="'yes'; true or false is allowed"):
        cleans_spaces(tmp_path, tiny_tokenizer())


def test_ids_without_a_token_have_no_text() -> None:
    raw = tiny_tokenizer()
    vocabulary = raw.get_vocab()
    ids = [vocabulary["▁good"], 512, 1, vocabulary["▁film"], 9999]
    assert TextDecoder(raw).decode(ids) == "good film"


def with_decoder(*steps: decoders.Decoder) -> Tokenizer:
    raw = tiny_tokenizer()
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), *steps])
    return raw


SPACE_FIRST = decoders.Strip(" ", 1, 0)


@pytest.mark.parametrize(
    ("raw", "is_local"),
    [
        pytest.param(tiny_tokenizer(), True, id="T5's"),
        pytest.param(with_decoder(decoders.Fuse(), SPACE_FIRST), True, id="SentencePiece's"),
        pytest.param(with_decoder(decoders.Fuse(), decoders.Replace(" .", ".")), False,
                     id="that cleans up"),
        pytest.param(with_decoder(decoders.Fuse(), decoders.Strip(" ", 1, 1)), False,
                     id="that strips the end"),
        pytest.param(with_decoder(decoders.CTC()), False, id="that drops repeats"),
    ],
)  # fmt: skip
def test_a_decoder_is_local_where_later_tokens_change_nothing(
    raw: Tokenizer, is_local: bool
) -> None:
    assert TextDecoder(raw).is_local is is_local


def test_a_panic_of_the_library_is_an_ordinary_error() -> None:
    raw = with_decoder(decoders.Fuse(), decoders.Strip(" ", 1, 1))
    decoder, vocabulary = TextDecoder(raw), raw.get_vocab()
    assert decoder.decode([vocabulary["▁good"]]) == "good"
    with pytest.raises(Undecodable, match="failed on 1 ids"):
        decoder.decode([vocabulary["▁"]])
