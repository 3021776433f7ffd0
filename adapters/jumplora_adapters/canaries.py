"""Canaries: a few prompts with the answers that an adapter is expected to give, kept in its file.

Made of rows as training reads them. They are written for the adapter, never taken from a benchmark
or from its test data: the file goes wherever the adapter goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from tokenizers import Tokenizer

from jumplora_adapters.errors import DataError
from jumplora_adapters.manifest import MAX_CANARIES, Canary, PromptSpec, first_faults
from jumplora_adapters.prompt import render
from jumplora_adapters.rows import Row, read_rows
from jumplora_adapters.tokenizer import token_ids


def read_canaries(path: Path, prompt: PromptSpec | None) -> tuple[Canary, ...]:
    """A file's rows as canaries, texts rendered through the adapter's own `prompt`.

    Raises DataError for what `rows` refuses, for texts without a prompt, and for more rows than a
    manifest takes.
    """
    file = read_rows(path, prompt.options if prompt else ())
    file.check_prompt_is_given(prompt)
    if len(file.rows) > MAX_CANARIES:
        raise DataError(
            f"{path} has {len(file.rows)} rows; an adapter has at most {MAX_CANARIES} canaries"
        )
    return tuple(_canary(path, row, prompt) for row in file.rows)


def check_lengths(canaries: Sequence[Canary], tokenizer: Tokenizer, end: int, limit: int) -> None:
    """Raise DataError naming the first canary whose prompt, end token included, is over `limit`.

    A canary is never cut: it is kept as the whole prompt that is asked.
    """
    sizes = map(len, token_ids(tokenizer, [canary.prompt for canary in canaries], end))
    for number, size in enumerate(sizes, start=1):
        if size > limit:
            raise DataError(
                f"canary {number}: its prompt has {size} tokens; at most {limit} are allowed"
            )


def _canary(path: Path, row: Row, prompt: PromptSpec | None) -> Canary:
    if not row.source:
        raise DataError(f"{path}: line {row.line}: there is nothing to ask")
    whole = render(prompt, row.source) if prompt and row.is_labelled else row.source
    try:
        return Canary(prompt=whole, expected=row.target)
    except ValidationError as error:
        raise DataError(f"{path}: line {row.line}: {first_faults(error)}") from error
