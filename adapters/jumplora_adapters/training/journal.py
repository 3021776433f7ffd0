"""The per-step log of one training, JSON lines. The one place for wall-clock numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

from jumplora_adapters.atomic_file import replace_file


class Journal:
    """Appends to `path`; on a resume, lines of steps that are done again are dropped first.

    A context manager: closed when the training ends or fails.
    """

    def __init__(self, path: Path, *, resume_step: int) -> None:
        kept = [line for line in _lines(path) if _step(line) <= resume_step]
        if resume_step == 0:
            kept = []
        if path.is_file():  # else it may be no file at all, such as /dev/null
            replace_file(path, "".join(f"{line}\n" for line in kept).encode())
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, **numbers: object) -> None:
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._file.close()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _step(line: str) -> float:
    """The line's step; a line torn by a kill counts as past the end."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
