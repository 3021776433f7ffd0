"""What prompts are counted with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoTokenizer

from factories import tiny_tokenizer
from jumplora_adapters.errors import DataError
from jumplora_adapters.tokenizer import end_token, load_tokenizer, read_tokenizer, token_ids


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_the_end_token_comes_once(tmp_path: Path) -> None:
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    tokenizer = read_tokenizer(tmp_path)
    end = end_token(tmp_path, tokenizer)
    assert token_ids(tokenizer, ["good"], end) == [tuple(tokenizer.encode("good").ids)]
    assert token_ids(tokenizer, ["good"], 7)[0][-2:] == (end, 7)


@pytest.mark.parametrize(
    ("files", "piece"),
    [
        ({}, "</s>"),
        ({"tokenizer_config.json": {"eos_token": "▁the"}}, "▁the"),
        ({"tokenizer_config.json": {"eos_token": {"content": "▁the", "special": True}}}, "▁the"),
        ({"tokenizer_config.json": {"eos_token": None}}, "</s>"),
        ({"special_tokens_map.json": {"eos_token": "▁a"}}, "▁a"),
        (
            {
                "tokenizer_config.json": {"eos_token": "▁the"},
                "special_tokens_map.json": {"eos_token": "▁a"},
            },
            "▁the",
        ),
        # Which tokens end an answer that is generated says nothing of the end of a text.
        ({"config.json": {"eos_token_id": [7, 9]}, "generation_config.json": {}}, "</s>"),
    ],
    ids=["T5's", "named", "as an object", "null", "in the old file", "in both", "of answers"],
)
def test_a_text_ends_with_the_tokenizers_own_end_token(
    tmp_path: Path, files: dict[str, Any], piece: str
) -> None:
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    tokenizer = read_tokenizer(tmp_path)
    assert end_token(tmp_path, tokenizer) == tokenizer.token_to_id(piece)


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"name one .* as eos_token in tokenizer_config\.json"):
        end_token(tmp_path, Tokenizer(WordLevel({"a": 0}, unk_token="a")))


@pytest.mark.parametrize(
    "config",
    [
        {"pad_token": "▁film"},
        {"additional_special_tokens": ["▁film"]},
        {"extra_special_tokens": ["▁film"]},
        {"extra_special_tokens": {"film_token": "▁film"}},
        {"additional_special_tokens": {"film_token": "▁film"}},
        {"sep_token": {"__type": "AddedToken", "content": "▁film"}},
    ],
    ids=str,
)
def test_what_the_folder_names_as_control_tokens_is_special(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = read_tokenizer(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    vocabulary = ours.get_vocab()
    ids = [vocabulary[piece] for piece in ("▁good", "▁film", "</s>")]
    assert ours.decode(ids) == "good" == theirs.decode(ids, skip_special_tokens=True)
    assert ours.get_vocab_size() == tiny_tokenizer().get_vocab_size()
    assert ours.encode("good film").ids == theirs("good film").input_ids
