"""Canaries: a few prompts with the answers that an adapter is expected to give, kept in its file.

Made of rows as training reads them. They are written for the adapter, never taken from a benchmark
or from its test data: the file goes wherever the adapter goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from jumplora_adapters.errors import DataError
from jumplora_adapters.manifest import MAX_CANARIES, Canary, PromptSpec, first_faults
from jumplora_adapters.prompt import render
from jumplora_adapters.rows import Row, read_rows
from jumplora_adapters.tokenizer import BackboneTokenizer, token_ids


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


def check_lengths(
    canaries: Sequence[Canary], tokenizer: BackboneTokenizer, end: int, limit: int
) -> None:
    """Raise DataError naming the first canary whose prompt, end token included, is over `limit`,
    or needs a token that the backbone does not know.

    A canary is never cut: it is kept as the whole prompt that is asked.
    """
    prompts = token_ids(tokenizer.raw, [canary.prompt for canary in canaries], end)
    for number, ids in enumerate(prompts, start=1):
        if len(ids) > limit:
            raise DataError(
                f"canary {number}: its prompt has {len(ids)} tokens; at most {limit} are allowed"
            )
        tokenizer.check(ids, f"canary {number}: its prompt")


def _canary(path: Path, row: Row, prompt: PromptSpec | None) -> Canary:
    if not row.source:
        raise DataError(f"{path}: line {row.line}: there is nothing to ask")
    whole = render(prompt, row.source) if prompt and row.is_labelled else row.source
    try:
        return Canary(prompt=whole, expected=row.target)
    except ValidationError as error:
        raise DataError(f"{path}: line {row.line}: {first_faults(error)}") from error
