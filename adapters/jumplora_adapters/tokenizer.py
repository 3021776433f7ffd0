"""A backbone folder's tokenizer and its end token, as training, canaries and measuring use them.

The server has a tokenizer of its own, which also turns tokens back into text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from jumplora_adapters.checkpoint import read_json_object
from jumplora_adapters.errors import DataError

_USUAL_END = "</s>"


def load_tokenizer(folder: Path) -> Tokenizer:
    """The backbone's tokenizer.json, cutting and padding nothing on its own. Raises DataError."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise DataError(f"{folder} has no tokenizer.json, which prompts are counted with")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{path} is no tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def end_token(folder: Path, tokenizer: Tokenizer) -> int:
    """The id of the token that ends a text: a prompt, and an answer that is learned from.

    It is the tokenizer's own, as in transformers. Which tokens end an answer that is generated is
    another matter (generation.py): there may be several. Raises DataError where there is none.
    """
    for piece in _named_ends(folder):
        token: int | None = tokenizer.token_to_id(piece)
        if token is not None:
            return token
    raise DataError(
        f"tokenizer.json of {folder} has no end token: name one of its tokens as eos_token in "
        "tokenizer_config.json"
    )


def _named_ends(folder: Path) -> Iterator[str]:
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / file).is_file():
            named = read_json_object(folder / file).get("eos_token")
            piece = named.get("content") if isinstance(named, dict) else named
            if isinstance(piece, str):
                yield piece
    yield _USUAL_END


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], end: int) -> list[tuple[int, ...]]:
    """Token ids with the end token, once, whether the tokenizer adds it or not."""
    encoded = [tuple(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    return [ids if ids[-1:] == (end,) else (*ids, end) for ids in encoded]
