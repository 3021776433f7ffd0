"""What a batch answers: the lines of a JSONL file, one at a time. Knows no server and no engine."""

from __future__ import annotations

import difflib
import gzip
import hashlib
import io
import json
import math
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from jumplora_adapters.errors import DataError
from jumplora_server.batch.lines import MOST_ROW, Readable, bounded, is_cut

STDIN = Path("-")
_FIELDS = ("id", "task_id", "text", "inputs", "parameters", "choices")
_LIKE = 0.8  # so close to a field's name is a slip, and no column of the user's own
_DIGITS = 16
_MOST_NESTED = 16  # parameters of a request have two levels; deeper ones end Python's recursion
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Question:
    """One line that is not blank. `body` is the request; `fault` says why there is none.

    `digest` is of all that the answer depends on, but for the version that gives it.
    """

    line: int
    id: str | int | None
    body: Mapping[str, object]
    digest: str
    fault: str | None = None

    @property
    def task(self) -> str | None:
        """What the row is asked of, if that is known."""
        return str(self.body["task_id"]) if "task_id" in self.body else None


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for rows that do not say it themselves."""

    task: str | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)


def read_lines(lines: Iterable[bytes], defaults: Defaults) -> Iterator[Question]:
    """A row for each line that is not blank, as it is read."""
    for number, line in enumerate(lines, start=1):
        if _is_row(line):
            yield _read_line(number, line, defaults)


@contextmanager
def opened(path: Path) -> Iterator[Iterable[bytes]]:
    """The lines of a file (`.gz` too), or of stdin for "-", as `bounded`. Raises DataError."""
    try:
        if path == STDIN:
            yield bounded(_stdin(), MOST_ROW)
            return
        with _open(path) as file:
            yield bounded(file, MOST_ROW)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def count_rows(path: Path) -> int | None:
    """How many rows a file has; None for stdin and for pipes, which are read once."""
    if path == STDIN or not stat.S_ISREG(path.stat().st_mode):
        return None
    with opened(path) as lines:
        return sum(map(_is_row, lines))


def _is_row(line: bytes) -> bool:
    return bool(line.strip()) or is_cut(line, MOST_ROW)


def _stdin() -> Readable:
    """Not sys.stdin, and never closed: both would wait for a thread that still reads."""
    try:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except io.UnsupportedOperation:  # a test's
        return sys.stdin.buffer


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    return path.open("rb", buffering=_READ_BYTES)


def _read_line(number: int, line: bytes, defaults: Defaults) -> Question:
    if is_cut(line, MOST_ROW):
        return _faulty(number, line, None, f"the line is longer than {MOST_ROW} bytes")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return _faulty(number, line, None, f"not JSON ({error})")
    if not isinstance(record, dict):
        return _faulty(
            number, line, None, f"a JSON object is expected, not {type(record).__name__}"
        )
    given = record.get("id")
    name = given if isinstance(given, str | int) and not isinstance(given, bool) else None
    try:
        return _row(number, name, _body(record, defaults))
    except DataError as error:
        return _faulty(number, line, name, error.message)


def _body(record: Mapping[str, object], defaults: Defaults) -> dict[str, object]:
    """The request. Raises DataError."""
    for key in record.keys() - {*_FIELDS}:
        if close := difflib.get_close_matches(key, _FIELDS, n=1, cutoff=_LIKE):
            raise DataError(f'"{key}" is not a field of a row; did you mean "{close[0]}"?')
    given = record.get("id")
    if isinstance(given, bool) or not isinstance(given, str | int | None):
        raise DataError(f'"id" must be a string or an integer, not {type(given).__name__}')
    sources = [name for name in ("text", "inputs") if record.get(name) is not None]
    if len(sources) != 1:
        names = ", ".join(map(str, record)) or "nothing"
        raise DataError(f'a row needs "text" or "inputs", one of them; it has {names}')
    (source,) = sources
    if not isinstance(record[source], str):
        raise DataError(f'"{source}" must be a string, not {type(record[source]).__name__}')
    task = record.get("task_id", defaults.task)
    if not isinstance(task, str):
        raise DataError('no task: give "task_id" in the row, or --task for rows without one')
    parameters = record.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise DataError(f'"parameters" must be an object, not {type(parameters).__name__}')
    parameters = {**defaults.parameters, **parameters}
    if "choices" in record:
        parameters["choices"] = record["choices"]
    _check_plain(parameters)
    return {"task_id": task, source: record[source], "parameters": parameters}


def _check_plain(parameters: dict[str, object]) -> None:
    """Raise DataError for what Python reads as JSON and no server does."""
    left: list[tuple[object, int]] = [(parameters, 1)]
    while left:
        value, level = left.pop()
        if isinstance(value, float) and not math.isfinite(value):
            raise DataError(f'"parameters" have {value}, which JSON does not have: give a number')
        if isinstance(value, dict | list):
            if level > _MOST_NESTED:
                raise DataError(f'"parameters" are nested more than {_MOST_NESTED} levels deep')
            inner = value.values() if isinstance(value, dict) else value
            left += ((each, level + 1) for each in inner)


def _row(number: int, name: str | int | None, body: dict[str, object]) -> Question:
    content = json.dumps([name, body], sort_keys=True).encode()
    return Question(number, name, body, _digest(content))


def _faulty(number: int, line: bytes, name: str | int | None, fault: str) -> Question:
    return Question(number, name, {}, _digest(line), fault)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
