"""Tokens that the files beside a SentencePiece model add to it: T5's extra ids, and others.

The files are a stranger's: what has another type than it should is refused by file and key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jumplora_adapters.checkpoint import read_json_object
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.printable import shown

EXTRA_ID = re.compile(r"▁?<extra_id_\d+>")
MAX_SHOWN = 80
_CONFIG, _ADDED = "tokenizer_config.json", "added_tokens.json"
_NUMBER = re.compile(r"[0-9]{1,9}")
_MAX_NUMBER = 10**9 - 1


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a tokenizer to be made; `is_added` where a file adds it to the model's own."""

    piece: str
    score: float
    is_special: bool
    is_added: bool = False


def stated_extra_ids(folder: Path) -> int | None:
    """How many extra ids the files of `folder` state. Raises ConvertError."""
    path = folder / _CONFIG
    config = _json(path)
    count = config.get("extra_ids")
    if count is not None:
        return _number(count, path, "extra_ids")
    names = [token.piece for token in stated_tokens(folder).values()]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        if listed := config.get(key):
            names += [_content(token, path, key) for token in _listed(listed, path, key)]
            break
    # As transformers: others alone do not mean none.
    return len({name for name in names if EXTRA_ID.fullmatch(name)}) or None


def stated_tokens(folder: Path) -> dict[int, Token]:
    """Added tokens by id; those of the model itself may be among them. Raises ConvertError."""
    found: dict[int, Token] = {}
    path = folder / _ADDED
    for name, number in _json(path).items():
        found[_number(number, path, name)] = Token(name, 0.0, is_special=False, is_added=True)
    path, key = folder / _CONFIG, "added_tokens_decoder"
    decoder = _json(path).get(key)
    if decoder is None:
        return found
    if not isinstance(decoder, dict):
        raise _refused(path, key, decoder, "an object of id -> token")
    for text, token in decoder.items():
        if not _NUMBER.fullmatch(text):
            raise _refused(path, key, text, "an id of at most nine digits")
        if not isinstance(token, dict):
            raise _refused(path, f"{key}.{text}", token, "an object with the token's content")
        special = token.get("special") is True
        piece = _content(token, path, f"{key}.{text}")
        found[int(text)] = Token(piece, 0.0, special, is_added=True)
    return found


def _listed(value: object, path: Path, key: str) -> Iterable[object]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and key == "extra_special_tokens":  # transformers takes names too
        return value.values()
    raise _refused(path, key, value, "a list of tokens")


def _content(token: object, path: Path, key: str) -> str:
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str):
        raise _refused(path, key, token, "a text, or an object with the text as content")
    return content


def _number(value: object, path: Path, key: str) -> int:
    # True is an int too.
    if type(value) is int and 0 <= value <= _MAX_NUMBER:
        return value
    raise _refused(path, key, value, f"a number from 0 to {_MAX_NUMBER}")


def _refused(path: Path, key: str, value: object, expected: str) -> ConvertError:
    return ConvertError(
        f"{path}: {shown(key, MAX_SHOWN)} has {shown(repr(value), MAX_SHOWN)}, where {expected} is"
        " expected: correct the file"
    )


def _json(path: Path) -> dict[str, object]:
    return read_json_object(path) if path.is_file() else {}
