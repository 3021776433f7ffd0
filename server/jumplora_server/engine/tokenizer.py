"""Text to token ids and back, by the backbone folder's own tokenizer.json."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer as RawTokenizer

from jumplora_adapters.tokenizer import end_token
from jumplora_server.engine.first_words import first_words, read_by_word
from jumplora_server.engine.weights import CheckpointError

LONG_TOKEN = 4  # characters: most tokens of a text are shorter
BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


class Tokenizer:
    """A backbone's tokenizer. Thread-safe: encoding keeps no state."""

    def __init__(self, raw: RawTokenizer, *, eos_token_id: int) -> None:
        raw.no_truncation()
        raw.no_padding()
        self.raw = raw
        self.eos_token_id = eos_token_id
        self._reads_by_word = read_by_word(raw)
        self._special = frozenset(
            token for token, added in raw.get_added_tokens_decoder().items() if added.special
        ) | {eos_token_id}
        vocabulary = raw.get_vocab()  # added tokens included
        self.highest_id = max(vocabulary.values())
        self._bytes = frozenset(
            token for piece, token in vocabulary.items() if BYTE_PIECE.fullmatch(piece)
        )

    @classmethod
    def load(cls, folder: Path, *, eos_token_id: int | None = None) -> Tokenizer:
        """Read `tokenizer.json`; prompts end with the folder's own end token, or with the given.

        Raises:
            CheckpointError: the folder has none.
            DataError: nothing says which token ends a text.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"no tokenizer.json in {folder}; `jumplora import-backbone` makes one from a "
                "SentencePiece model"
            )
        raw = RawTokenizer.from_file(str(path))
        end = end_token(folder, raw) if eos_token_id is None else eos_token_id
        return cls(raw, eos_token_id=end)

    def encode(self, text: str, *, truncate_to: int | None = None) -> tuple[int, ...]:
        """Token ids with eos last; `truncate_to` keeps the first ids and the eos.

        Gives the interpreter lock away, and reads no more of the text than it needs.
        """
        if truncate_to is not None:
            _, first = self._first(text, truncate_to)
            if first is not None:
                return (*first[: truncate_to - 1], self.eos_token_id)
        ids = self._ids(text)
        if not ids or ids[-1] != self.eos_token_id:
            ids.append(self.eos_token_id)
        if truncate_to is not None and len(ids) > truncate_to:
            ids = [*ids[: truncate_to - 1], self.eos_token_id]
        return tuple(ids)

    def try_encode(self, text: str, most: int) -> tuple[int, ...] | None:
        """As `encode`; None where that is more than `most` ids, without a look at all of them."""
        if self._first(text, most)[1] is not None:
            return None
        ids = self.encode(text)
        return ids if len(ids) <= most else None

    def beginning(self, text: str, tokens: int) -> str:
        """The whole words at the beginning of `text` that have more than `tokens` tokens of their
        own; all of it where that is not more, or where no place to cut is found."""
        return self._first(text, tokens)[0]

    def _first(self, text: str, enough: int) -> tuple[str, list[int] | None]:
        """The beginning of `text` and its ids, more than `enough` of them; or all of it and None
        where there is no such beginning."""
        size = LONG_TOKEN * enough + 256
        # Looked at from the start again each time: two thirds of all of it at the worst.
        while self._reads_by_word and 2 * size < len(text):
            beginning = first_words(text, size)
            if beginning is None:
                break
            ids = self._ids(beginning, special=False)
            if len(ids) > enough:
                return beginning, ids
            size = 4 * len(beginning)
        return text, None

    def _ids(self, text: str, *, special: bool = True) -> list[int]:
        # Of a batch of one: `encode` of the library keeps the interpreter lock.
        (encoding,) = self.raw.encode_batch_fast([text], add_special_tokens=special)
        return encoding.ids

    def count(self, text: str) -> int:
        """Number of tokens of a prompt, eos included."""
        return len(self.encode(text))

    def detokenizer(self) -> IncrementalDetokenizer:
        """A fresh detokenizer for one sequence."""
        return IncrementalDetokenizer(self)

    def decode(self, ids: list[int]) -> str:
        """The text of whole ids, control tokens left out."""
        return self.raw.decode(ids, skip_special_tokens=True)

    def is_special(self, token_id: int) -> bool:
        """Whether a token is a control token without text."""
        return token_id in self._special

    def is_byte(self, token_id: int) -> bool:
        """Whether a token stands for one byte (SentencePiece's byte fallback)."""
        return token_id in self._bytes


class IncrementalDetokenizer:
    """One sequence's text, piece by piece; a character split over tokens is held back.

    The pieces and the flush add up to `Tokenizer.decode` of all ids. tokenizers' DecodeStream is
    not used: it raises on byte tokens that form no character ("Invalid prefix encountered"),
    which a sampled sequence can hold.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Ids since the last token whose text is out. The first `_told` of them are out already:
        # they stay as left context, because a decoder drops the space in front of a first word.
        self._window: list[int] = []
        self._told = 0

    def push(self, token_id: int) -> str:
        """Add a token; return the text that became final with it."""
        self.hold(token_id)
        if self._tokenizer.is_special(token_id):
            return ""
        # A run of byte tokens is decoded as a whole, so its text is open until the run ends.
        return "" if self._tokenizer.is_byte(token_id) else self._advance(hold="unfinished")

    def hold(self, token_id: int) -> None:
        """Add a token; its text comes with that of a later one, or with the flush."""
        if not self._tokenizer.is_special(token_id):
            self._window.append(token_id)

    def flush(self) -> str:
        """The rest of the text, at the end of the sequence (an unfinished character, if any)."""
        return self._advance(hold="nothing")

    def is_special(self, token_id: int) -> bool:
        """Whether a token is a control token without text."""
        return self._tokenizer.is_special(token_id)

    def _advance(self, *, hold: Literal["unfinished", "nothing"]) -> str:
        before = self._tokenizer.decode(self._window[: self._told])
        after = self._tokenizer.decode(self._window)
        # Byte-level vocabularies show a half character as U+FFFD at the end.
        if hold == "unfinished" and after.endswith("\ufffd"):
            return ""
        self._window = self._window[self._told :]
        self._told = len(self._window)
        return after[len(before) :]
