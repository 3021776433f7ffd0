"""Rows of a data file: JSONL read and checked line by line, `.gz` too.

A file is `{"text", "label"}` a line or `{"input", "target"}` a line, never both. Every fault is a
DataError that names file and line. Nothing here knows of prompts, tokens or tensors.
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

from jumplora_adapters.errors import DataError

_FORMS = (("text", "label"), ("input", "target"))
_FAULTS_SHOWN = 5
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON's escapes allow one alone; UTF-8 does not


@dataclass(frozen=True, slots=True)
class Row:
    """One line: `source` is a text for a template if `is_labelled`, else a whole prompt."""

    line: int
    source: str
    target: str
    is_labelled: bool


@dataclass(frozen=True, slots=True)
class RowFile:
    """A file's rows in its order, at least one, with the SHA-256 of its uncompressed bytes."""

    path: Path
    sha256: str
    rows: tuple[Row, ...]

    @property
    def is_labelled(self) -> bool:
        """Whether the rows are texts with labels; a file has one form."""
        return self.rows[0].is_labelled

    def check_prompt_is_given(self, prompt: object) -> None:
        """Raise DataError where there are texts and nothing that makes prompts of them."""
        if self.is_labelled and prompt is None:
            raise DataError(
                f"{self.path}: line {self.rows[0].line}: "
                '"text" needs a prompt: give an instruction (and options)'
            )


def read_rows(path: Path, options: Sequence[str] = ()) -> RowFile:
    """Read and check a file; labels must be among `options`, if there are any.

    Raises DataError; up to five faults are listed.
    """
    content = _read(path)
    rows, faults = _parse(content, options)
    if faults:
        more = f" (and {len(faults) - _FAULTS_SHOWN} more)" if len(faults) > _FAULTS_SHOWN else ""
        raise DataError(f"{path}: " + "; ".join(faults[:_FAULTS_SHOWN]) + more)
    if not rows:
        raise DataError(f"{path} has no rows: at least one is needed")
    return RowFile(path, hashlib.sha256(content).hexdigest(), tuple(rows))


def count_rows(path: Path) -> int:
    """Rows of a file, unchecked. Raises DataError if it cannot be read."""
    return sum(1 for line in _read(path).split(b"\n") if line.strip())


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error  # str() of an OSError has the path again
        raise DataError(f"{path} cannot be read: {reason}") from error


def _parse(content: bytes, options: Sequence[str]) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    faults: list[str] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        parsed = _parse_line(number, line, options)
        if isinstance(parsed, Row):
            rows.append(parsed)
        else:
            faults.append(f"line {number}: {parsed}")
    if not faults and len({row.is_labelled for row in rows}) > 1:
        faults.append('some rows have "text" and "label", others "input" and "target"')
    return rows, faults


def _parse_line(number: int, line: bytes, options: Sequence[str]) -> Row | str:
    """The row, or what is wrong with it."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
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
            return f'"{name}" has half a surrogate pair, which is not a character'
    if not record[target].strip():
        return f'"{target}" is empty'
    if source == "text" and options and record[target] not in options:
        return f'label "{record[target]}" is none of the options {" | ".join(options)}'
    return Row(number, record[source], record[target], source == "text")
