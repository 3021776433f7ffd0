"""Regular expressions of a stranger's file, matched in a process of their own.

An expression can be written so that it takes longer than a lifetime, and Python's `re`
cannot be stopped from another thread. A process can.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from jumplora_adapters.errors import ConvertError
from jumplora_adapters.printable import shown

MAX_SECONDS = 10.0
MAX_BYTES = 1 << 30
MAX_SHOWN = 80


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
    expressions: Sequence[Expression], names: Sequence[str], seconds: float = MAX_SECONDS
) -> tuple[dict[str, str | None], ...]:
    """For each expression the names that it matches, each with its group `idx` if it has one.

    Raises ConvertError for an expression that cannot be compiled, and where all of them together
    take longer than `seconds` or more than a gigabyte.
    """
    if not expressions or not names:
        return tuple({} for _ in expressions)
    question = {"names": list(names), "expressions": [(e.regex, e.whole) for e in expressions]}
    fields = ", ".join(sorted({expression.field for expression in expressions}))
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", "-m", "jumplora_adapters.convert.expressions"],
            input=json.dumps(question).encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConvertError(
            f"{fields}: the expressions were not matched with {len(names)} module names within"
            f" {seconds:g} s: write names in their place"
        ) from error
    if ended.returncode != 0:
        raise ConvertError(
            f"{fields}: the expressions take too much memory: write names in their place"
        )
    answers = json.loads(ended.stdout)
    for expression, answer in zip(expressions, answers, strict=True):
        if isinstance(answer, str):
            raise ConvertError(f"{expression} is not a regular expression: {answer}")
    return tuple({names[int(i)]: idx for i, idx in answer.items()} for answer in answers)


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


def _main() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    question = json.load(sys.stdin)
    names = question["names"]
    json.dump(
        [_answer(regex, whole, names) for regex, whole in question["expressions"]], sys.stdout
    )


if __name__ == "__main__":
    _main()
