"""What a batch writes: a line of JSON for each row, in the order of the input.

So line n of the output is row n of the input, and a file that ends early is the beginning of the
whole one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jumplora_adapters.errors import DataError
from jumplora_server.api.schemas import GenerateResponse
from jumplora_server.batch.rows import Row


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row has no answer; `code` is stable."""

    code: str
    message: str


Outcome = GenerateResponse | Failure


def line_of(row: Row, outcome: Outcome) -> str:
    """The line for a row, with its end."""
    fields: dict[str, object] = {"line": row.line}
    if row.id is not None:
        fields["id"] = row.id
    fields["task_id"] = row.task
    fields |= _failed(outcome) if isinstance(outcome, Failure) else _answered(outcome)
    fields["digest"] = row.digest
    return json.dumps(fields, ensure_ascii=False) + "\n"


def _failed(failure: Failure) -> dict[str, object]:
    return {"error": {"code": failure.code, "message": failure.message}}


def _answered(response: GenerateResponse) -> dict[str, object]:
    details = response.details
    abstains = details.finish_reason == "abstained"
    fields: dict[str, object] = {
        "answer": None if abstains else response.generated_text,
        "version": details.adapter_version,
        "finish_reason": details.finish_reason,
        "prompt_tokens": details.prompt_tokens,
        "generated_tokens": details.generated_tokens,
    }
    if details.seed is not None:
        fields["seed"] = details.seed
    if details.best_of_sequences:
        fields["others"] = [other.generated_text for other in details.best_of_sequences]
    if details.choices is not None:
        fields["probability"] = details.choices[0].probability
        fields["options"] = [
            {"text": option.text, "probability": option.probability} for option in details.choices
        ]
        fields["mass"] = details.mass
    return fields


@dataclass(frozen=True, slots=True)
class Written:
    """A line of an output that is there already."""

    text: str
    line: int
    digest: str
    failed: bool


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an output holds: how many lines, and how many of these are of rows that failed."""

    path: Path
    rows: int = 0
    failed: int = 0

    @classmethod
    def read(cls, path: Path) -> Earlier:
        """Look through an output; a last line that was not written whole is cut off.

        Raises DataError for a file that a batch did not write, which is left as it is.
        """
        if not path.exists():
            return cls(path)
        rows = failed = 0
        for written in _lines(path):
            rows += 1
            failed += written.failed
        _cut_torn(path)
        return cls(path, rows, failed)

    def lines(self) -> Iterator[Written]:
        """All lines."""
        return _lines(self.path) if self.rows else iter(())


def check_same(path: Path, source: Path, row: Row, written: Written) -> None:
    """Raise DataError where a line is not about this row. A failed row may have been mended."""
    if written.line == row.line and (written.failed or written.digest == row.digest):
        return
    raise DataError(
        f"{path} has answers to other rows than {source}: its line for row {written.line} was not "
        f"made from line {row.line} with these options. Give the same rows and options, another "
        "--out, or --overwrite to begin again"
    )


def _lines(path: Path) -> Iterator[Written]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return  # torn by a kill
            yield _parse(path, number, line)


def _parse(path: Path, number: int, line: bytes) -> Written:
    try:
        match json.loads(line):
            case {"line": int(row), "digest": str(digest)} as fields:
                return Written(line.decode(), row, digest, "error" in fields)
    except (ValueError, RecursionError):
        pass
    raise DataError(
        f"{path}: line {number} is not of `jumplora batch`: give another --out, or --overwrite to "
        "replace the file"
    )


def _cut_torn(path: Path) -> None:
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        whole = size
        while whole:
            start = max(0, whole - 65536)
            file.seek(start)
            end = file.read(whole - start).rfind(b"\n")
            if end >= 0:
                whole = start + end + 1
                break
            whole = start
        if whole < size:
            file.truncate(whole)
