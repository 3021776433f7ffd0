"""Training rows: JSONL files read, checked against the prompt's options and tokenized.

A file is `{"text", "label"}` a line, rendered through the prompt template, or `{"input", "target"}`
a line, taken as they are; `.gz` is read too. Every fault is a DataError that names file and line.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from jumplora_adapters.errors import DataError
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.prompt import render, render_truncated
from jumplora_adapters.training.config import Lengths

_FORMS = (("text", "label"), ("input", "target"))
_FAULTS_SHOWN = 5
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON's escapes allow one alone; UTF-8 does not


@dataclass(frozen=True, slots=True)
class Row:
    """One line: `source` is a text for the template if `label` is true, else a whole prompt."""

    line: int
    source: str
    target: str
    is_labelled: bool


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
    path: Path, prompt: PromptSpec | None, tokenizer: Tokenizer, end: int, lengths: Lengths
) -> Split:
    """Reads, checks and tokenizes one file. Raises DataError; up to five faults are listed."""
    content = _read(path)
    rows, faults = _parse(content, prompt)
    if faults:
        more = f" (and {len(faults) - _FAULTS_SHOWN} more)" if len(faults) > _FAULTS_SHOWN else ""
        raise DataError(f"{path}: " + "; ".join(faults[:_FAULTS_SHOWN]) + more)
    if not rows:
        raise DataError(f"{path} has no rows: a split needs at least one")
    texts = [row.source for row in rows]
    if prompt is not None and rows[0].is_labelled:
        texts = _rendered(texts, prompt, tokenizer, lengths.source)
    sources = _ids(tokenizer, texts, end)
    targets = _ids(tokenizer, [row.target for row in rows], end)
    for row, target in zip(rows, targets, strict=True):
        if len(target) > lengths.target:
            raise DataError(
                f"{path}: line {row.line}: the target has {len(target)} tokens with the end "
                f"token, the limit is {lengths.target}: raise the target length"
            )
    examples = tuple(
        Example(_cut(source, lengths.source), target, row.target)
        for row, source, target in zip(rows, sources, targets, strict=True)
    )
    is_labelled = rows[0].is_labelled
    cut = 0 if is_labelled else sum(len(source) > lengths.source for source in sources)
    return Split(path, hashlib.sha256(content).hexdigest(), examples, is_labelled, cut)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The backbone's tokenizer.json, cutting and padding nothing on its own."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise DataError(f"{folder} has no tokenizer.json, which training needs")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error  # str() of an OSError has the path again
        raise DataError(f"{path} cannot be read: {reason}") from error


def _parse(content: bytes, prompt: PromptSpec | None) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    faults: list[str] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        parsed = _parse_line(number, line, prompt)
        if isinstance(parsed, Row):
            rows.append(parsed)
        else:
            faults.append(f"line {number}: {parsed}")
    if not faults and len({row.is_labelled for row in rows}) > 1:
        faults.append('some rows have "text" and "label", others "input" and "target"')
    return rows, faults


def _parse_line(number: int, line: bytes, prompt: PromptSpec | None) -> Row | str:
    """The row, or what is wrong with it."""
    try:
        record = json.loads(line)
    except ValueError as error:
        return f"not JSON ({error})"
    if not isinstance(record, dict):
        return f"a JSON object is expected, not {type(record).__name__}"
    for source, target in _FORMS:
        if source in record and target in record:
            break
    else:
        names = ", ".join(map(str, record)) or "nothing"
        return f'needs "text" and "label", or "input" and "target"; it has {names}'
    for name in (source, target):
        if not isinstance(record[name], str):
            return f'"{name}" must be a string, not {type(record[name]).__name__}'
        if _SURROGATE.search(record[name]):
            return f'"{name}" has half a surrogate pair, which is no character'
    if not record[target].strip():
        return f'"{target}" is empty'
    if source == "text":
        if prompt is None:
            return '"text" needs a prompt: give an instruction (and options)'
        if prompt.options and record[target] not in prompt.options:
            return f'label "{record[target]}" is none of the options {" | ".join(prompt.options)}'
    return Row(number, record[source], record[target], source == "text")


def _rendered(
    texts: Sequence[str], prompt: PromptSpec, tokenizer: Tokenizer, limit: int
) -> list[str]:
    """The prompts, the texts of those that are too long cut so that they take `limit` tokens."""
    prompts = [render(prompt, text) for text in texts]
    sizes = map(len, tokenizer.encode_batch(prompts))  # in parallel, which one by one is not
    return [
        whole if size <= limit else render_truncated(prompt, text, tokenizer, limit)
        for text, whole, size in zip(texts, prompts, sizes, strict=True)
    ]


def _ids(tokenizer: Tokenizer, texts: Sequence[str], end: int) -> list[tuple[int, ...]]:
    """Token ids with the end token, once, whether the tokenizer adds it or not."""
    encoded = [tuple(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    return [ids if ids[-1:] == (end,) else (*ids, end) for ids in encoded]


def _cut(ids: tuple[int, ...], limit: int) -> tuple[int, ...]:
    return ids if len(ids) <= limit else (*ids[: limit - 1], ids[-1])
