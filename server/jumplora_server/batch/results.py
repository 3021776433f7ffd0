"""What a batch writes: a line of JSON for each row, in the order of the input.

So line n of the output is row n of the input, and a file that ends early is the beginning of the
whole one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jumplora_adapters.errors import DataError
from jumplora_server.api.schemas import GenerateResponse
from jumplora_server.batch.lines import MOST_WRITTEN, bounded, is_cut
from jumplora_server.batch.rows import Question


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row has no answer; `code` is stable."""

    code: str
    message: str


Outcome = GenerateResponse | Failure


def line_of(row: Question, outcome: Outcome) -> bytes:
    """The line for a row, with its end."""
    fields: dict[str, object] = {"line": row.line}
    if row.id is not None:
        fields["id"] = row.id
    fields["task_id"] = row.task
    fields |= _failed(outcome) if isinstance(outcome, Failure) else _answered(outcome)
    fields["digest"] = row.digest
    try:
        return f"{json.dumps(fields, ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError:  # half a surrogate pair, of an id or of an answer
        return f"{json.dumps(fields)}\n".encode()


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

    text: bytes
    line: int
    digest: str
    failed: bool


class OtherRows(DataError):
    """An output has answers to other rows than those that are given."""


def check_same(path: Path, source: Path, row: Question, written: Written) -> None:
    """Raise OtherRows where a line is not about this row. A failed row may have been mended."""
    if written.line == row.line and (written.failed or written.digest == row.digest):
        return
    raise OtherRows(
        f"{path} has answers to other rows than {source}: its line for row {written.line} was not "
        f"made from line {row.line} with these options. Give the same rows and options, another "
        "--out, or --overwrite to begin again"
    )


def written_in(path: Path) -> Iterator[Written]:
    """All lines of an output but for a last one that was not written whole.

    Raises DataError for a file that a batch did not write.
    """
    with path.open("rb") as file:
        for number, line in enumerate(bounded(file, MOST_WRITTEN), start=1):
            if not (line.endswith(b"\n") or is_cut(line, MOST_WRITTEN)):
                return  # torn by a kill
            yield _parse(path, number, line)


def _parse(path: Path, number: int, line: bytes) -> Written:
    try:
        match json.loads(line):
            case {"line": int(row), "digest": str(digest)} as fields:
                return Written(line, row, digest, "error" in fields)
    except (ValueError, RecursionError):
        pass
    raise DataError(
        f"{path}: line {number} is not of `jumplora batch`: give another --out, or --overwrite to "
        "replace the file"
    )
