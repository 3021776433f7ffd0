"""A backbone folder's tokenizer and its end token, as training, canaries and measuring use them.

The server has a tokenizer of its own, which also turns tokens back into text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from jumplora_adapters.errors import DataError


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


def end_token(folder: Path) -> int:
    """The id of the end token by config.json, by default T5's. Raises DataError."""
    end = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("eos_token_id", 1)
    if not isinstance(end, int):
        raise DataError(f"{folder}/config.json: eos_token_id must be one number, not {end!r}")
    return end


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], end: int) -> list[tuple[int, ...]]:
    """Token ids with the end token, once, whether the tokenizer adds it or not."""
    encoded = [tuple(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    return [ids if ids[-1:] == (end,) else (*ids, end) for ids in encoded]
