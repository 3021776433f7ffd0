"""Regular expressions of a stranger's file, matched in another process.

An expression can be written so that it takes longer than a lifetime, and Python's `re`
cannot be stopped from another thread. A process can.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from jumplora_adapters.errors import ConvertError
from jumplora_adapters.printable import shown

MAX_SECONDS = 10.0  # of each call; a conversion makes several
MAX_BYTES = 1 << 30
MAX_SHOWN = 80
_MAX_WRITTEN = 64 << 20  # of the answers, and of what is said about an error
_LAST_BYTES = 4096
_OUT_OF_MEMORY = 3
_COMMAND = (sys.executable, "-P", "-W", "ignore", "-m", "jumplora_adapters.convert.expressions")


@dataclass(frozen=True, slots=True)
class Expression:
    """A regular expression, the field it is of, and what that field says, for messages."""

    field: str
    text: str
    regex: str
    whole: bool = False  # the whole name has to match, else its start

    def __str__(self) -> str:
        return f"{self.field} {shown(repr(self.text), MAX_SHOWN)}"


def match_all(
    expressions: Sequence[Expression],
    names: Sequence[str],
    *,
    seconds: float = MAX_SECONDS,
    most_bytes: int = MAX_BYTES,
) -> tuple[dict[str, str | None], ...]:
    """For each expression the names that it matches, each with its group `idx` if it has one.

    Raises ConvertError for an expression that cannot be compiled, and where all of them together
    take longer than `seconds` or more than `most_bytes` of memory.
    """
    if not expressions or not names:
        return tuple({} for _ in expressions)
    question = {"names": list(names), "expressions": [(e.regex, e.whole) for e in expressions]}
    fields = ", ".join(sorted({expression.field for expression in expressions}))
    # Files, since the process can limit how much it writes to one, and not to a pipe.
    with tempfile.TemporaryFile() as answered, tempfile.TemporaryFile() as said:
        try:
            ended = subprocess.run(
                [*_COMMAND, str(most_bytes), str(math.ceil(seconds) + 1)],
                input=json.dumps(question).encode(),
                stdout=answered,
                stderr=said,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ConvertError(
                f"{fields}: the expressions were not matched with {len(names)} module names within"
                f" {seconds:g} s: write names in their place"
            ) from error
        if ended.returncode == _OUT_OF_MEMORY:
            raise ConvertError(
                f"{fields}: the expressions take more than {most_bytes >> 20} MiB of memory: write"
                " names in their place"
            )
        if ended.returncode != 0:
            why = _last_line(said) or f"exit status {ended.returncode}"
            raise ConvertError(
                f"{fields}: the expressions could not be matched ({shown(why, MAX_SHOWN)}): write"
                " names in their place"
            )
        answered.seek(0)
        answers = json.load(answered)
    for expression, answer in zip(expressions, answers, strict=True):
        if isinstance(answer, str):
            raise ConvertError(
                f"{expression} is not a regular expression: {shown(answer, MAX_SHOWN)}"
            )
    return tuple({names[int(i)]: idx for i, idx in answer.items()} for answer in answers)


def _last_line(file: IO[bytes]) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
    lines = file.read().decode(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "")


def _answer(regex: str, whole: bool, names: Sequence[str]) -> str | dict[int, str | None]:
    """Index of each name that matches -> its group `idx`; or why `regex` cannot be compiled."""
    try:
        compiled = re.compile(regex)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    match = compiled.fullmatch if whole else compiled.match
    return {
        i: found.groupdict().get("idx") for i, name in enumerate(names) if (found := match(name))
    }


def _main() -> int:
    import resource

    most_bytes, most_seconds = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    # For the case that the process that waits was killed: nothing else ends this one then.
    resource.setrlimit(resource.RLIMIT_CPU, (most_seconds, most_seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_WRITTEN, _MAX_WRITTEN))
    try:
        question = json.load(sys.stdin)
        names = question["names"]
        answers = [_answer(regex, whole, names) for regex, whole in question["expressions"]]
        json.dump(answers, sys.stdout)
        sys.stdout.flush()
    except MemoryError:
        return _OUT_OF_MEMORY
    return 0


if __name__ == "__main__":
    sys.exit(_main())
