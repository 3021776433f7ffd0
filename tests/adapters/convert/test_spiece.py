"""Tokenizers made of SentencePiece models, against SentencePiece: in, out, and in pieces."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, normalizers

from jumplora_adapters.control_tokens import PlainText
from jumplora_adapters.convert.spiece import make_tokenizer
from jumplora_adapters.convert.spiece_battery import TEXTS, check_equal, silent_reference
from jumplora_adapters.errors import ConvertError
from jumplora_server.engine.first_words import read_by_word
from jumplora_server.engine.tokenizer import Tokenizer as Served
from spiece_models import KINDS, hard_texts, spiece_model


def _message(path: Path) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())


CONFIG = "tokenizer_config.json"
PLAIN = {"normalization_rule_name": "identity"}  # without the table, which takes seconds to read


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in ("t5", "mt5") else pytest.param(kind, marks=pytest.mark.slow)
        for kind in KINDS
    ],
)
def test_equals_sentencepiece_in_and_out_whole_and_streamed(kind: str, tmp_path: Path) -> None:
    model = _message(spiece_model(tmp_path, **KINDS[kind]))
    tokenizer = make_tokenizer(model, tmp_path, len(model.pieces))
    check_equal(tokenizer, model)
    reference, plain = silent_reference(model), PlainText(tokenizer).tokenizer
    served = Served(tokenizer, eos_token_id=1)
    scores, equals = [piece.score for piece in model.pieces], 0
    for text in hard_texts(1000):
        ids = reference.encode(text)
        if kind == "spaces kept" and reference.normalize(text) == "▁":
            continue  # SentencePiece puts a space before what it removed
        read = plain.encode(text, add_special_tokens=False).ids
        if read != ids:  # the sums are in float64 here, in float32 there
            assert sum(scores[n] for n in read) == pytest.approx(sum(scores[n] for n in ids), 1e-6)
            equals += 1
        assert served.encode(text) == (*read, 1)
        whole = reference.decode(ids)
        assert served.decode(ids) == whole, ascii(text)
        detokenizer = served.detokenizer()
        pieces = [detokenizer.push(token) for token in ids]
        assert "".join(pieces) + detokenizer.flush() == whole, ascii(text)
    assert equals <= 3


def test_answers_cut_inside_a_character_are_read_as_sentencepiece_does(tmp_path: Path) -> None:
    """So are byte tokens that form no character: any ids may be drawn."""
    model = _message(spiece_model(tmp_path, byte_fallback=True, **PLAIN))
    served = Served(make_tokenizer(model, tmp_path, len(model.pieces)), eos_token_id=1)
    reference = silent_reference(model)
    draw = random.Random(0)
    rows = [
        reference.encode(text)[:cut] for text in ("good 日本語", "a 🦙 b") for cut in range(1, 14)
    ]
    # A space that comes as a byte at the very beginning is kept by SentencePiece (adapters/README).
    drawn = [n for n, p in enumerate(model.pieces) if n > 2 and p.piece != "<0x20>"]
    in_bytes = [n for n in drawn if model.pieces[n].piece.startswith("<0x")]
    rows += [[draw.choice(drawn) for _ in range(8)] for _ in range(400)]
    rows += [[draw.choice(in_bytes) for _ in range(6)] + rows[5][:2] for _ in range(100)]
    for ids in rows:
        whole = reference.decode(ids)
        assert served.decode(ids) == whole, ids
        detokenizer = served.detokenizer()
        pieces = [detokenizer.push(token) for token in ids]
        assert "".join(pieces) + detokenizer.flush() == whole, ids


def test_long_texts_are_not_read_to_their_end(tmp_path: Path) -> None:
    model = _message(spiece_model(tmp_path, **KINDS["mt5"]))
    tokenizer = make_tokenizer(model, tmp_path, len(model.pieces))
    assert read_by_word(tokenizer)
    served = Served(tokenizer, eos_token_id=1)
    text = "The river is good <0x41> " * 200
    assert served.encode(text, truncate_to=50) == (*tokenizer.encode(text).ids[:49], 1)


@pytest.mark.parametrize(
    ("stated", "rows", "expected"),
    [
        pytest.param(None, 28, 0, id="not stated, and fewer than T5's fit"),
        pytest.param(None, 128, 100, id="not stated, T5's fit"),
        pytest.param({}, 128, 100, id="a configuration that does not state them"),
        pytest.param({"extra_ids": 0}, 128, 0, id="none"),
        pytest.param({"extra_ids": 10}, 128, 10, id="ten"),
        pytest.param({"extra_ids": 100}, 28, 28, id="more than fit"),
        pytest.param({"additional_special_tokens": ["<extra_id_0>", "<extra_id_1>", "<x>"]}, 128,
                     2, id="listed"),
        pytest.param({"extra_special_tokens": {"first": "<extra_id_0>", "other": "<x>"}}, 128,
                     1, id="named"),
    ],
)  # fmt: skip
def test_extra_ids_are_as_many_as_stated_and_fit(
    stated: dict[str, Any] | None, rows: int, expected: int, tmp_path: Path
) -> None:
    model = _message(spiece_model(tmp_path, **PLAIN))
    if stated is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated))
    known = len(model.pieces)
    tokenizer = make_tokenizer(model, tmp_path, known + rows)
    ids = [tokenizer.token_to_id(f"<extra_id_{n}>") for n in range(100)]
    assert sum(token is not None for token in ids) == expected
    if expected:  # the last one comes first
        highest = stated.get("extra_ids", expected) - 1 if stated else expected - 1
        assert ids[highest] == known
        assert tokenizer.encode(f"<extra_id_{highest}>").ids == [known, 1]


def test_extra_ids_that_do_not_fit_are_not_added_as_others(tmp_path: Path) -> None:
    model = _message(spiece_model(tmp_path, **PLAIN))
    known = len(model.pieces)
    added = {str(known + 9 - n): {"content": f"<extra_id_{n}>", "special": True} for n in range(10)}
    added |= {"0": {"content": "<pad>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    whole = make_tokenizer(model, tmp_path, known + 16)
    assert whole.get_vocab_size() == known + 10
    assert [whole.token_to_id(f"<extra_id_{n}>") for n in (9, 0)] == [known, known + 9]
    assert make_tokenizer(model, tmp_path, known + 4).get_vocab_size() == known + 4


def test_added_tokens_keep_their_ids_or_are_refused(tmp_path: Path) -> None:
    model = _message(spiece_model(tmp_path, **PLAIN))
    known = len(model.pieces)
    config = {"extra_ids": 0, "added_tokens_decoder": {str(known): {"content": "[X]"}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = make_tokenizer(model, tmp_path, known)
    assert tokenizer.token_to_id("[X]") == known
    assert known in tokenizer.encode("good [X] film").ids
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[Y]": known + 7}))
    with pytest.raises(ConvertError, match=rf"{known + 7}.*after the model's own {known} tokens"):
        make_tokenizer(model, tmp_path, known)


def test_no_more_extra_ids_are_made_than_fit(tmp_path: Path) -> None:
    model = _message(spiece_model(tmp_path, **PLAIN))
    known = len(model.pieces)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"extra_ids": 10**9 - 1}))
    tracemalloc.start()
    try:
        tokenizer = make_tokenizer(model, tmp_path, known + 2)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 64 << 20
    assert tokenizer.get_vocab_size() == known + 2
    assert tokenizer.token_to_id("<extra_id_999999998>") == known


@pytest.mark.parametrize(
    ("file", "content", "key"),
    [
        pytest.param(CONFIG, {"extra_ids": True}, "extra_ids", id="true as a number"),
        pytest.param(CONFIG, {"extra_ids": -1}, "extra_ids", id="negative"),
        pytest.param(CONFIG, {"extra_ids": "9"}, "extra_ids", id="a number as text"),
        pytest.param(CONFIG, {"extra_ids": 10**4000}, "extra_ids", id="4,000 digits"),
        pytest.param(CONFIG, {"added_tokens_decoder": ["[X]"]}, "added_tokens_decoder",
                     id="a list"),
        pytest.param(CONFIG, {"added_tokens_decoder": {"x": {}}}, "added_tokens_decoder",
                     id="no id"),
        pytest.param(CONFIG, {"added_tokens_decoder": {"9" * 5000: {}}}, "added_tokens_decoder",
                     id="5,000 digits as an id"),
        pytest.param(CONFIG, {"added_tokens_decoder": {"7": "[X]"}}, r"added_tokens_decoder\.7",
                     id="no object"),
        pytest.param(CONFIG, {"added_tokens_decoder": {"7": {}}}, r"added_tokens_decoder\.7",
                     id="no content"),
        pytest.param(CONFIG, {"additional_special_tokens": "<extra_id_0>"},
                     "additional_special_tokens", id="a text for a list"),
        pytest.param(CONFIG, {"additional_special_tokens": 7}, "additional_special_tokens",
                     id="a number for a list"),
        pytest.param(CONFIG, {"extra_special_tokens": [7]}, "extra_special_tokens",
                     id="a number in a list"),
        pytest.param("added_tokens.json", {"[X]": "7"}, r"\[X\]", id="an id as text"),
        pytest.param("added_tokens.json", {"[X]": True}, r"\[X\]", id="true as an id"),
    ],
)  # fmt: skip
def test_what_is_stated_with_another_type_is_refused_by_file_and_key(
    file: str, content: dict[str, Any], key: str, tmp_path: Path
) -> None:
    model = _message(spiece_model(tmp_path, **PLAIN))
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ConvertError, match=rf"{file}: {key} has .* expected") as caught:
        make_tokenizer(model, tmp_path, len(model.pieces))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"model_type": "bpe", "vocab_size": 400}, "not a Unigram model", id="BPE"),
        pytest.param({"treat_whitespace_as_suffix": True}, "reads .* as .*, SentencePiece as",
                     id="spaces behind words"),
    ],
)  # fmt: skip
def test_what_would_read_otherwise_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = _message(spiece_model(tmp_path, **{**PLAIN, **options}))
    with pytest.raises(ConvertError, match=message):
        check_equal(make_tokenizer(model, tmp_path, len(model.pieces)), model)


def test_the_text_that_differs_is_named(tmp_path: Path) -> None:
    model = _message(spiece_model(tmp_path, byte_fallback=True, **PLAIN))
    lossy: Tokenizer = make_tokenizer(model, tmp_path, len(model.pieces))
    lossy.normalizer = normalizers.Sequence([normalizers.Replace("\u65e5", "")])
    with pytest.raises(ConvertError) as caught:
        check_equal(lossy, model)
    assert any(repr(text) in str(caught.value) for text in TEXTS)
