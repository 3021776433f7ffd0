"""Token ids to text: special tokens left out, spaces cleaned up where the checkpoint says so.

One meaning for serving, training and canaries. Whole texts here; pieces of a text that is not
complete yet are cleaned by `SpaceCleaner`, and add up to the whole.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE

from jumplora_adapters import tokenizer_files
from jumplora_adapters.control_tokens import special_tokens

# In this order, each over the whole text, as transformers has it.
_REPLACED = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
# A space before which the text may be cut: no replacement reaches over it. " n" and a space wait
# for " ' ", which would make "n't" and " 'm" of them; " '" waits for the end of " ' ".
_BETWEEN = re.compile(r"(?<! )(?<! n)(?<! ') ")
# A last word that keeps its space, or surely loses it.
_DECIDED = re.compile(r"[^ ]| (?:[^ n']|n[^ '])")
_BAD_BYTE = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of one
LEAVES_OUT_BAD_BYTES = ("\ufffd", "")
"""The replacement between `ByteFallback` and `Fuse` that says so; a U+FFFD of three bytes stays."""
# Steps of a decoder that change a token by itself, or the beginning of the text.
_LOCAL = frozenset(
    {"ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Strip", "WordPiece"}
)


def clean_up_spaces(text: str) -> str:
    """`text` without the spaces that English has not before punctuation and short forms."""
    for found, kept in _REPLACED:
        text = text.replace(found, kept)
    return text


class SpaceCleaner:
    """`clean_up_spaces` of a text that comes in pieces; what may still change is held back."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def push(self, piece: str) -> str:
        """Take the next piece; return what is final with it."""
        self._held += piece
        last = max((match.start() for match in _BETWEEN.finditer(self._held)), default=0)
        cut = len(self._held) if _DECIDED.match(self._held, last) else last
        final, self._held = self._held[:cut], self._held[cut:]
        return clean_up_spaces(final)

    def flush(self) -> str:
        """The rest, at the end of the text."""
        rest, self._held = self._held, ""
        return clean_up_spaces(rest)


class Undecodable(ValueError):
    """The tokenizer's library failed on these ids."""


class TextDecoder:
    """The text of whole ids, as transformers' `decode` with `skip_special_tokens`.

    Byte tokens are decoded as SentencePiece does: whole characters among them are kept, and each
    other byte is U+FFFD; or as ByT5Tokenizer does, which leaves such bytes out. `is_local` says
    whether what later tokens add never changes the text before them, so that a text may be shown
    in pieces.
    """

    def __init__(self, raw: Tokenizer, *, cleans_spaces: bool = False) -> None:
        self._raw = raw
        self.cleans_spaces = cleans_spaces
        steps = _decoder_steps(raw)
        self.is_local = _is_local(steps)
        self._special = special_tokens(raw).keys()
        has_bytes = any(step["type"] == "ByteFallback" for step in steps)
        found = ((raw.token_to_id(f"<0x{byte:02X}>"), byte) for byte in range(256 * has_bytes))
        self._bytes = {token: byte for token, byte in found if token is not None}
        self._bad_byte = "" if _leaves_out_bad_bytes(steps) else "\ufffd"

    def decode(self, ids: Sequence[int]) -> str:
        """Ids without a token have no text."""
        text = self.raw_decode(ids)
        return clean_up_spaces(text) if self.cleans_spaces else text

    def decode_all(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """The texts of several rows."""
        return [self.decode(ids) for ids in rows]

    def raw_decode(self, ids: Sequence[int]) -> str:
        """The text before spaces are cleaned up. Raises Undecodable."""
        try:
            if not self._bad_byte:
                return "".join(self._pieces(ids))
            if self._bytes and not self._bytes.keys().isdisjoint(ids):
                return str(self._raw.decoder.decode(self._pieces(ids)))
            return str(self._raw.decode(ids, skip_special_tokens=True))
        except BaseException as error:
            # A panic of the library is not an Exception: uncaught, it would end the thread.
            if type(error).__name__ != "PanicException":
                raise
            raise Undecodable(
                f"the tokenizer's decoder failed on {len(ids)} ids: {error}"
            ) from None

    def is_cut(self, ids: Sequence[int]) -> bool:
        """Whether the last ids are bytes of a character that the next byte may complete."""
        if not ids or ids[-1] not in self._bytes:  # as most tokens: this is asked of each
            return False
        last = bytes(
            self._bytes[token]
            for token in itertools.takewhile(self._bytes.__contains__, reversed(ids[-3:]))
        )
        decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        decoder.decode(last[::-1])
        return bool(decoder.getstate()[0])

    def _pieces(self, ids: Sequence[int]) -> list[str]:
        """The tokens without special ones, runs of byte tokens as their characters."""
        pieces: list[str] = []
        # Before runs are made: bytes on both sides of a token without text are one character.
        kept = (token for token in ids if token not in self._special)
        named = ((token, self._raw.id_to_token(token)) for token in kept)
        found = [(token, piece) for token, piece in named if piece is not None]
        for is_byte, run in itertools.groupby(found, lambda each: each[0] in self._bytes):
            if is_byte:
                raw = bytes(self._bytes[token] for token, _ in run)
                # A character each: "<0x41>" as one piece would be taken for a byte token.
                pieces += _BAD_BYTE.sub(self._bad_byte, raw.decode(errors="surrogateescape"))
            else:
                pieces += [piece for _, piece in run]
        return pieces


def _decoder_steps(raw: Tokenizer) -> list[dict[str, Any]]:
    """The parts of the tokenizer's decoder in their order, as tokenizer.json has them."""
    if raw.decoder is None:
        return []
    decoder: dict[str, Any] = json.loads(raw.decoder.__getstate__())
    steps: list[dict[str, Any]] = decoder.get("decoders", [decoder])
    return steps


def _leaves_out_bad_bytes(steps: Sequence[Mapping[str, Any]]) -> bool:
    found, kept = LEAVES_OUT_BAD_BYTES
    replacement = {"type": "Replace", "pattern": {"String": found}, "content": kept}
    return [*steps] == [{"type": "ByteFallback"}, replacement, {"type": "Fuse"}]


def _is_local(steps: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no step looks at what follows a token."""
    is_fused = False
    for step in steps:
        kind = step["type"]
        if kind not in _LOCAL or (kind == "Strip" and step["stop"]):
            return False
        if kind == "Replace" and is_fused:
            return False
        is_fused = is_fused or kind == "Fuse"
    return True


def cleans_spaces(folder: Path, raw: Tokenizer) -> bool:
    """Whether the folder's answers have spaces cleaned up. Raises BackboneError."""
    return tokenizer_files.cleans_spaces(folder, is_bpe=isinstance(raw.model, BPE))
