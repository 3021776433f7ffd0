"""Token ids to text: special tokens left out, spaces cleaned up where the checkpoint says so.

One meaning for serving, training and canaries. Whole texts here; pieces of a text that is not
complete yet are cleaned by `SpaceCleaner`, and add up to the whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE

from jumplora_adapters.checkpoint import read_json_object
from jumplora_adapters.errors import BackboneError

_FOR_BPE = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
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


class TextDecoder:
    """The text of whole ids, as transformers' `decode` with `skip_special_tokens`."""

    def __init__(self, raw: Tokenizer, *, cleans_spaces: bool = False) -> None:
        self._raw = raw
        self.cleans_spaces = cleans_spaces

    def decode(self, ids: Sequence[int]) -> str:
        """Ids without a token have no text."""
        text = self.raw_decode(ids)
        return clean_up_spaces(text) if self.cleans_spaces else text

    def decode_all(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """The texts of several rows."""
        return [self.decode(ids) for ids in rows]

    def raw_decode(self, ids: Sequence[int]) -> str:
        """The text before spaces are cleaned up."""
        return str(self._raw.decode(ids, skip_special_tokens=True))


def cleans_spaces(folder: Path, raw: Tokenizer) -> bool:
    """Whether spaces are cleaned up: no by default, and never for BPE. Raises BackboneError."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return False
    config = read_json_object(path)
    asked = config.get("clean_up_tokenization_spaces")
    if not isinstance(asked, bool | None):
        raise BackboneError(
            f"{path}: clean_up_tokenization_spaces is {asked!r}; true or false is allowed"
        )
    return bool(asked) and (not isinstance(raw.model, BPE) or bool(config.get(_FOR_BPE)))
