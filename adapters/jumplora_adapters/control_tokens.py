"""Texts in which control tokens are only characters, in templates whose own are control tokens.

`encode_special_tokens` of the library is not enough: it finds no token `</s>` in a text, but a
Unigram model has the piece `</s>` too, with the best score of all, and full-width letters become
it by normalisation.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer

from jumplora_adapters.errors import DataError


def special_tokens(raw: Tokenizer) -> dict[int, str]:
    """The added tokens that the tokenizer flags as special, by id: decoding leaves them out."""
    added = raw.get_added_tokens_decoder()
    return {token: known.content for token, known in added.items() if known.special}


class PlainText:
    """A second reading of a tokenizer: `tokenizer` knows control tokens by marks alone.

    A mark is random, so that no text has one. What `mark` returns is read by `tokenizer` as the
    original tokenizer reads what was given; any other text has no control tokens. A text without
    control tokens has the same ids in both.
    """

    def __init__(self, raw: Tokenizer, ends: Iterable[int] = ()) -> None:
        """`ends` are control tokens too, if the tokenizer does not know it.

        Raises DataError where the tokenizer does not work without its control tokens' names.
        """
        known = map(raw.id_to_token, ends)
        names = _control_tokens(raw) | {name for name in known if name is not None}
        secret = secrets.token_hex(16)
        self._marks = {name: f"\ue000{secret}.{n}\ue000" for n, name in enumerate(sorted(names))}
        # All added tokens, since the longest one is read; only control tokens are replaced.
        added = {token.content for token in raw.get_added_tokens_decoder().values()} | names
        longest_first = sorted(added, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        self.tokenizer = _renamed(raw, self._marks) if names else raw

    def mark(self, template: str) -> str:
        """What `tokenizer` reads with the control tokens of `template`."""
        if not self._marks:
            return template
        return self._pattern.sub(lambda match: self._marks.get(match[0], match[0]), template)


def _control_tokens(raw: Tokenizer) -> set[str]:
    """Special tokens, and what the tokenizer appends on its own: the end token."""
    return {*special_tokens(raw).values(), *raw.encode("").tokens}


def _renamed(raw: Tokenizer, marks: Mapping[str, str]) -> Tokenizer:
    """The same tokenizer, its control tokens under other names and the same ids."""
    content: dict[str, Any] = json.loads(raw.to_str())
    model = content["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {marks.get(piece, piece): n for piece, n in model["vocab"].items()}
    else:
        model["vocab"] = [[marks.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") in marks:
        model["unk_token"] = marks[model["unk_token"]]
    for token in content["added_tokens"]:
        if token["content"] in marks:
            token |= {"content": marks[token["content"]], "normalized": False}
    try:
        renamed = Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"the tokenizer needs the names of its control tokens: {error}") from error
    known = {token["content"] for token in content["added_tokens"]}
    renamed.add_special_tokens([mark for mark in marks.values() if mark not in known])
    for name, mark in marks.items():
        if renamed.token_to_id(mark) != raw.token_to_id(name):
            raise DataError(f"the control token {name!r} gets another id under another name")
    return renamed
