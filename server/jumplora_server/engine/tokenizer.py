"""Text to token ids and back, by the backbone folder's own tokenizer.json."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from tokenizers import Tokenizer as RawTokenizer

from jumplora_adapters.control_tokens import PlainText, special_tokens
from jumplora_adapters.decoding import SpaceCleaner, TextDecoder, cleans_spaces
from jumplora_adapters.errors import BackboneError
from jumplora_adapters.tokenizer import end_token, read_tokenizer
from jumplora_server.core import NoEmbedding
from jumplora_server.engine.first_words import first_words, read_by_word

# Added tokens come by ones and tens, T5's extra ids by a hundred; the tokenizer of another backbone
# has thousands more, and every prompt would be read wrongly.
MAX_EXTRA_TOKENS = 256
LONG_TOKEN = 4  # characters: most tokens of a text are shorter
_log = logging.getLogger(__name__)


class Piece(NamedTuple):
    """A token: as the vocabulary writes it, and the characters of the text that it stands for."""

    id: int
    token: str
    start: int
    stop: int


class Tokenizer:
    """A backbone's tokenizer. Thread-safe: encoding keeps no state."""

    def __init__(
        self,
        raw: RawTokenizer,
        *,
        eos_token_id: int,
        rows: int | None = None,
        cleans_spaces: bool = False,
    ) -> None:
        """`rows` are those of the backbone's embedding, by default one for every token."""
        raw.no_truncation()
        raw.no_padding()
        self.raw = raw
        self.eos_token_id = eos_token_id
        self.decoder = TextDecoder(raw, cleans_spaces=cleans_spaces)
        self._reads_by_word = read_by_word(raw)
        self._special = frozenset(special_tokens(raw)) | {eos_token_id}
        vocabulary = raw.get_vocab()  # added tokens included
        self.highest_id = max(vocabulary.values())
        self._rows = self.highest_id + 1 if rows is None else rows

    @classmethod
    def load(
        cls, folder: Path, *, eos_token_id: int | None = None, rows: int | None = None
    ) -> Tokenizer:
        """Read `tokenizer.json`, and of tokenizer_config.json whether spaces are cleaned up.

        Prompts end with the folder's own end token, or with the given one.

        Raises:
            BackboneError: tokenizer.json is far larger than `rows`, or tokenizer_config.json
                cannot be read.
            DataError: there is no tokenizer.json, it is not one, or nothing says which token ends
                a text.
        """
        raw = read_tokenizer(folder)
        end = end_token(folder, raw) if eos_token_id is None else eos_token_id
        tokenizer = cls(raw, eos_token_id=end, rows=rows, cleans_spaces=cleans_spaces(folder, raw))
        if rows is not None and tokenizer.highest_id >= rows:
            _warn_of_extra(folder / "tokenizer.json", tokenizer.highest_id + 1, rows)
        return tokenizer

    def templates(self, *, plain: bool) -> TemplateReader:
        """How prompts are read that a template makes of a client's text.

        Control tokens in the text are characters where it is `plain`; those in the template are
        control tokens in any case. Raises DataError where this tokenizer cannot be read so.
        """
        if not plain:
            return TemplateReader(self, str)
        reading = PlainText(self.raw, self._special)
        if reading.tokenizer is self.raw:
            return TemplateReader(self, str)
        texts = Tokenizer(reading.tokenizer, eos_token_id=self.eos_token_id, rows=self._rows)
        return TemplateReader(texts, reading.mark)

    def encode(self, text: str, *, truncate_to: int | None = None) -> tuple[int, ...]:
        """Token ids with eos last; `truncate_to` keeps the first ids and the eos.

        Gives the interpreter lock away, and reads no more of the text than it needs. Raises
        NoEmbedding for a token that is left and has none.
        """
        if truncate_to is not None:
            _, first = self._first(text, truncate_to)
            if first is not None:
                return self._checked((*first[: truncate_to - 1], self.eos_token_id))
        ids = self._ids(text)
        if not ids or ids[-1] != self.eos_token_id:
            ids.append(self.eos_token_id)
        if truncate_to is not None and len(ids) > truncate_to:
            ids = [*ids[: truncate_to - 1], self.eos_token_id]
        return self._checked(tuple(ids))

    def try_encode(self, text: str, most: int) -> tuple[int, ...] | None:
        """As `encode`; None where that is more than `most` ids, without a look at all of them."""
        if self._first(text, most)[1] is not None:
            return None
        ids = self.encode(text)
        return ids if len(ids) <= most else None

    def pieces(self, text: str, *, special: bool) -> list[Piece]:
        """All tokens of `text` as `encode` reads it, without eos where not `special`."""
        # Of a batch of one, as in `_ids`.
        (encoding,) = self.raw.encode_batch([text], add_special_tokens=special)
        found = [
            Piece(token_id, token, *offsets)
            for token_id, token, offsets in zip(
                encoding.ids, encoding.tokens, encoding.offsets, strict=True
            )
        ]
        if special and (not found or found[-1].id != self.eos_token_id):
            end = self.raw.id_to_token(self.eos_token_id)
            found.append(Piece(self.eos_token_id, end or "", len(text), len(text)))
        return found

    def _checked(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        if self.highest_id >= self._rows:
            for token_id in ids:
                if token_id >= self._rows:
                    raise NoEmbedding(token_id, self.raw.id_to_token(token_id), self._rows)
        return ids

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

    def detokenizer(self) -> IncrementalDetokenizer:
        """A fresh detokenizer for one sequence."""
        return IncrementalDetokenizer(self)

    def decode(self, ids: list[int]) -> str:
        """The text of whole ids, control tokens left out."""
        return self.decoder.decode(ids)

    def has_text(self, token_id: int) -> bool:
        """Whether there is such a token, and it is not a control token."""
        return token_id not in self._special and self.raw.id_to_token(token_id) is not None

    def is_special(self, token_id: int) -> bool:
        """Whether a token is a control token without text."""
        return token_id in self._special


def _warn_of_extra(path: Path, tokens: int, rows: int) -> None:
    """Raises BackboneError where there are too many for a warning."""
    if tokens - rows > MAX_EXTRA_TOKENS:
        raise BackboneError(
            f"{path} has {tokens} tokens, but the backbone's embedding has {rows} rows; at most "
            f"{MAX_EXTRA_TOKENS} more tokens than rows are allowed: is it the tokenizer of another "
            "backbone?"
        )
    _log.warning(
        "%s has %d tokens more than the backbone's embedding has rows (%d): prompts that need one"
        " of them are refused",
        path, tokens - rows, rows,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class TemplateReader:
    """A tokenizer for prompts made of templates, and what it wants done to a template before."""

    tokenizer: Tokenizer
    mark: Callable[[str], str]


class IncrementalDetokenizer:
    """One sequence's text, piece by piece; a character split over tokens is held back.

    The pieces and the flush add up to `Tokenizer.decode` of all ids. tokenizers' DecodeStream is
    not used: it raises on byte tokens that form no character ("Invalid prefix encountered"),
    which a sampled sequence can hold.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Ids since the last token whose text is out. The first `_sent` of them are out already:
        # they stay as left context, because a decoder drops the space in front of a first word.
        # Such a context has more than spaces, or it is all of the sequence so far.
        self._window: list[int] = []
        self._sent = 0
        self._context = ""  # the text of those
        self._cleaner = SpaceCleaner() if tokenizer.decoder.cleans_spaces else None

    def push(self, token_id: int) -> str:
        """Add a token; return the text that became final with it."""
        if not self._tokenizer.has_text(token_id):
            return ""
        self._window.append(token_id)
        if not self._tokenizer.decoder.is_local:  # later tokens change the text: all at the end
            return ""
        if self._tokenizer.decoder.is_cut(self._window):
            return ""
        piece = self._advance(hold="unfinished")
        return piece if self._cleaner is None else self._cleaner.push(piece)

    def hold(self, token_id: int) -> None:
        """Add a token; its text comes with that of a later one, or with the flush."""
        if self._tokenizer.has_text(token_id):
            self._window.append(token_id)

    def flush(self) -> str:
        """The rest of the text, at the end of the sequence (an unfinished character, if any)."""
        piece = self._advance(hold="nothing")
        return piece if self._cleaner is None else self._cleaner.push(piece) + self._cleaner.flush()

    def is_special(self, token_id: int) -> bool:
        """Whether a token is a control token without text."""
        return self._tokenizer.is_special(token_id)

    def fresh(self) -> IncrementalDetokenizer:
        """A new one, for another sequence."""
        return IncrementalDetokenizer(self._tokenizer)

    def _advance(self, *, hold: Literal["unfinished", "nothing"]) -> str:
        after = self._tokenizer.decoder.raw_decode(self._window)
        # Byte-level vocabularies show a half character as U+FFFD at the end.
        if hold == "unfinished" and after.endswith("\ufffd"):
            return ""
        piece = after[len(self._context) :]
        fresh = self._window[self._sent :]
        text = self._tokenizer.decoder.raw_decode(fresh)
        if text.strip():
            self._window, self._context = fresh, text
        else:
            self._context = after
        self._sent = len(self._window)
        return piece
