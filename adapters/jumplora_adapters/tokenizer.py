"""A backbone folder's tokenizer and its end token, as training, canaries and measuring use them.

The server has another tokenizer, which reads and writes the same in pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from jumplora_adapters.architecture import read_architecture
from jumplora_adapters.control_tokens import PlainText, special_tokens
from jumplora_adapters.decoding import TextDecoder, cleans_spaces
from jumplora_adapters.errors import DataError
from jumplora_adapters.tokenizer_files import CONTROL_TOKENS, end_names, named_tokens


@dataclass(frozen=True, slots=True)
class BackboneTokenizer:
    """A tokenizer.json and its two readings, with what is made of ids.

    `raw` reads whole prompts, control tokens and all, `plain` texts inside templates; `rows` are
    those of the backbone's embedding.
    """

    raw: Tokenizer
    plain: PlainText
    decoder: TextDecoder
    rows: int

    @classmethod
    def of(
        cls, raw: Tokenizer, rows: int, *, ends: Iterable[int] = (), cleans_spaces: bool = False
    ) -> BackboneTokenizer:
        """Both readings of `raw`; `ends` are control tokens in any case."""
        return cls(raw, PlainText(raw, ends), TextDecoder(raw, cleans_spaces=cleans_spaces), rows)

    def check(self, ids: Sequence[int], what: str) -> None:
        """Raise DataError where `what` has a token that the embedding has no row for."""
        for token in ids:
            if token >= self.rows:
                raise DataError(
                    f"{what} needs the token {self.raw.id_to_token(token)!r} (id {token}), but the "
                    f"backbone's embedding has {self.rows} rows: leave it out"
                )


def load_tokenizer(folder: Path) -> BackboneTokenizer:
    """The backbone's tokenizer.json and what goes with it.

    Raises DataError, and BackboneError for config.json or tokenizer_config.json.
    """
    raw = read_tokenizer(folder)
    return BackboneTokenizer.of(
        raw,
        read_architecture(folder).vocab_size,
        ends=[end_token(folder, raw)],
        cleans_spaces=cleans_spaces(folder, raw),
    )


def read_tokenizer(folder: Path) -> Tokenizer:
    """The backbone's tokenizer.json, cutting and padding nothing on its own. Raises DataError."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise DataError(
            f"{folder} has no tokenizer.json; `jumplora import-backbone` makes one of a "
            "SentencePiece model, and of the tokenizers of ByT5 and CodeT5"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{path} is not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _make_special(tokenizer, named_tokens(folder, CONTROL_TOKENS))
    return tokenizer


def _make_special(tokenizer: Tokenizer, pieces: Iterable[str]) -> None:
    """Tokens that the checkpoint names as control tokens are special, as transformers has them.

    One that the vocabulary lacks is none: the backbone has no embedding for it.
    """
    special = set(special_tokens(tokenizer).values())
    tokenizer.add_special_tokens(
        [
            AddedToken(piece, special=True, normalized=False)
            for piece in dict.fromkeys(pieces)
            if piece not in special and tokenizer.token_to_id(piece) is not None
        ]
    )


def end_token(folder: Path, tokenizer: Tokenizer) -> int:
    """The id of the token that ends a text: a prompt, and an answer that is learned from.

    It is the tokenizer's own, as in transformers. Which tokens end an answer that is generated is
    another matter (generation.py): there may be several. Raises DataError where there is none.
    """
    for piece in end_names(folder):
        token: int | None = tokenizer.token_to_id(piece)
        if token is not None:
            return token
    raise DataError(
        f"tokenizer.json of {folder} has no end token: name one of its tokens as eos_token in "
        "tokenizer_config.json"
    )


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], end: int) -> list[tuple[int, ...]]:
    """Token ids with the end token, once, whether the tokenizer adds it or not."""
    encoded = [tuple(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    return [ids if ids[-1:] == (end,) else (*ids, end) for ids in encoded]
