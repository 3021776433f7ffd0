"""Training rows tokenized: texts rendered through the prompt template, whole prompts as they are.

What a file may hold is `rows`; every fault is a DataError that names file and line.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from jumplora_adapters.errors import DataError
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.prompt import Frame, render_truncated, size_of
from jumplora_adapters.rows import read_rows
from jumplora_adapters.tokenizer import BackboneTokenizer, token_ids
from jumplora_adapters.training.config import Lengths


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one row, end token included, and the expected answer as text."""

    source: tuple[int, ...]
    target: tuple[int, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Split:
    """A file's examples in file order, with the SHA-256 of its uncompressed bytes.

    `cut` counts the whole prompts ("input") whose end did not fit the source length. Texts that are
    cut inside their template are not counted: that is what the template is for.
    """

    path: Path
    sha256: str
    examples: tuple[Example, ...]
    is_labelled: bool
    cut: int = 0


def read_split(
    path: Path,
    prompt: PromptSpec | None,
    tokenizer: BackboneTokenizer,
    end: int,
    lengths: Lengths,
    *,
    drawn: int | None = None,
) -> Split:
    """Reads and checks one file, and tokenizes its rows, or as many of them as are `drawn`.

    Rows are drawn by a fixed seed, since files may be sorted by label, and stay in their order.
    Raises DataError; up to five faults are listed.
    """
    file = read_rows(path, prompt.options if prompt else ())
    file.check_prompt_is_given(prompt)
    rows = file.rows
    if drawn is not None and drawn < len(rows):
        chosen = random.Random("rows").sample(range(len(rows)), drawn)
        rows = tuple(rows[n] for n in sorted(chosen))
    texts = [row.source for row in rows]
    if prompt is not None and file.is_labelled:
        # As the server reads them: control tokens in a text are plain characters.
        plain = tokenizer.plain
        frame = Frame.of(prompt).marked(plain.mark)
        texts = _rendered(texts, frame, plain.tokenizer, lengths.source)
        sources = token_ids(plain.tokenizer, texts, end)
    else:
        sources = token_ids(tokenizer.raw, texts, end)
    targets = token_ids(tokenizer.raw, [row.target for row in rows], end)
    for row, source, target in zip(rows, sources, targets, strict=True):
        tokenizer.check(_cut(source, lengths.source), f"{path}: line {row.line}: the prompt")
        tokenizer.check(target, f"{path}: line {row.line}: the target")
        if len(target) > lengths.target:
            raise DataError(
                f"{path}: line {row.line}: the target has {len(target)} tokens with the end "
                f"token, the limit is {lengths.target}: raise the target length"
            )
    examples = tuple(
        Example(_cut(source, lengths.source), target, row.target)
        for row, source, target in zip(rows, sources, targets, strict=True)
    )
    cut = 0 if file.is_labelled else sum(len(source) > lengths.source for source in sources)
    return Split(path, file.sha256, examples, file.is_labelled, cut)


def _rendered(texts: Sequence[str], frame: Frame, tokenizer: Tokenizer, limit: int) -> list[str]:
    """The prompts, the texts of those that are too long cut so that they take `limit` tokens."""
    prompts = [frame.around(text) for text in texts]
    encodings = tokenizer.encode_batch(prompts)  # in parallel, which one by one is not
    sizes = (size_of(encoding, tokenizer) for encoding in encodings)
    return [
        whole if size <= limit else render_truncated(frame, text, tokenizer, limit)
        for text, whole, size in zip(texts, prompts, sizes, strict=True)
    ]


def _cut(ids: tuple[int, ...], limit: int) -> tuple[int, ...]:
    return ids if len(ids) <= limit else (*ids[: limit - 1], ids[-1])
