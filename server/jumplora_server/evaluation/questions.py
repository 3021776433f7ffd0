"""What an evaluation asks: the rows of a file as they are sent, each with the expected answer.

Knows files and prompts, never a server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from jumplora_adapters.errors import DataError
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.prompt import render
from jumplora_adapters.rows import Row, RowFile

_SHOWN = 5  # labels that a message names
_LINES_SHOWN = 3  # of each
Form = Literal["text", "inputs"]
"""The field of a request: a text for the answering version's template, or a whole prompt."""

Cut = Literal["whole", "text", "end"]
"""What a prompt lost to the server's limit: nothing, the end of its text, its own end."""

Fit = Callable[[PromptSpec, str], str]
"""The prompt for a text, with the text cut at its end where it is too long."""


@dataclass(frozen=True, slots=True)
class Question:
    """One row: its line in the file, what is sent, what is expected."""

    line: int
    prompt: str
    expected: str
    cut: Cut = "whole"


@dataclass(frozen=True, slots=True)
class Sheet:
    """All questions of an evaluation, at least one, in the file's order and of one form."""

    file: RowFile
    form: Form
    questions: tuple[Question, ...]


def make_sheet(
    file: RowFile,
    prompt: PromptSpec | None = None,
    *,
    rows: int | None = None,
    fit: Fit = render,
) -> Sheet:
    """The file's first `rows` rows as questions.

    Without a `prompt` texts are sent as they are, for the server's template; with one they become
    whole prompts here, by `fit`. Raises DataError where a prompt is given for rows that are whole
    prompts already, and for what is empty.
    """
    if prompt is not None and not file.is_labelled:
        raise DataError(
            f'{file.path}: its rows have "input", a whole prompt: an instruction, options, a'
            " template or a task file are for rows with a text"
        )
    questions = tuple(_question(row, prompt, fit) for row in file.rows[:rows])
    for question in questions:
        if not question.prompt:
            raise DataError(f"{file.path}: line {question.line}: there is nothing to ask")
    return Sheet(file, "text" if file.is_labelled and prompt is None else "inputs", questions)


@dataclass(frozen=True, slots=True)
class Strangers:
    """Expected answers that are none of the options. `rows` have one of them, of `all_rows`."""

    text: str
    rows: int
    all_rows: int


def find_strangers(
    sheet: Sheet, options: Sequence[str], same: Callable[[str], str] = str
) -> Strangers | None:
    """Labels that are none of the options, with their rows; None where all are options.

    Two texts are the same where `same` makes one text of both.
    """
    known = {same(option) for option in options}
    lines: dict[str, list[int]] = {}
    for each in sheet.questions:
        if same(each.expected) not in known:
            lines.setdefault(each.expected, []).append(each.line)
    if not lines:
        return None
    shown = ", ".join(f'"{label}" ({_shown(lines[label])})' for label in [*lines][:_SHOWN])
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    label, are = ("label", "is") if len(lines) == 1 else ("labels", "are")
    text = f"{label} {shown}{more} {are} none of the options {' | '.join(options)}"
    return Strangers(
        f"{sheet.file.path}: {text}", sum(map(len, lines.values())), len(sheet.questions)
    )


def check_labels(sheet: Sheet, options: Sequence[str]) -> None:
    """Raise DataError, naming labels and lines, where an expected answer is none of the options."""
    if (strangers := find_strangers(sheet, options)) is not None:
        raise DataError(strangers.text)


def _shown(lines: Sequence[int]) -> str:
    if len(lines) == 1:
        return f"line {lines[0]}"
    if len(lines) <= _LINES_SHOWN:
        return f"lines {', '.join(map(str, lines))}"
    return f"{len(lines):,} rows: lines {', '.join(map(str, lines[:_LINES_SHOWN]))}, ..."


def _question(row: Row, prompt: PromptSpec | None, fit: Fit) -> Question:
    if prompt is None:
        return Question(row.line, row.source, row.target)
    fitted = fit(prompt, row.source)
    return Question(
        row.line, fitted, row.target, "whole" if fitted == render(prompt, row.source) else "text"
    )
