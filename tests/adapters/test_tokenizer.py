"""What prompts are counted with."""

from __future__ import annotations

from pathlib import Path

import pytest

from factories import tiny_tokenizer
from jumplora_adapters.errors import DataError
from jumplora_adapters.tokenizer import end_token, load_tokenizer, read_tokenizer, token_ids


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_the_end_token_comes_once(tmp_path: Path) -> None:
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text("{}")
    tokenizer, end = read_tokenizer(tmp_path), end_token(tmp_path)
    assert token_ids(tokenizer, ["good"], end) == [tuple(tokenizer.encode("good").ids)]
    assert token_ids(tokenizer, ["good"], 7)[0][-2:] == (end, 7)


def test_several_end_tokens_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"eos_token_id": [1, 2]}')
    with pytest.raises(DataError, match="must be one number"):
        end_token(tmp_path)
