"""The scores of a run as they are found: one line each, so that a kill loses at most the last.

A state is "bare", "after/<position>" or "alone/<task>"; a cell is a state and the task scored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from jumplora_adapters.atomic_file import replace_file
from jumplora_adapters.errors import DataError
from jumplora_adapters.training.processes import Processes

BARE = "bare"


@dataclass(frozen=True, slots=True)
class CellScores:
    """Shares of right answers, 0 to 1: written freely, and chosen among the task's options."""

    exact_match: float
    best_option: float | None


def after(position: int) -> str:
    """The state after the `position`-th task, from 1."""
    return f"after/{position}"


def alone(task: str) -> str:
    """The bare backbone with one task's own update and none of its ancestors'."""
    return f"alone/{task}"


class ScoreBook:
    """What was scored so far, kept in one file of JSON lines, which the main process writes."""

    def __init__(self, path: Path, processes: Processes) -> None:
        self._path = path
        self._processes = processes
        self._cells: dict[tuple[str, str], CellScores] = {}
        for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else ():
            if not line.endswith(b"\n"):
                break  # torn by a kill
            try:
                entry = json.loads(line)
                key = (str(entry["state"]), str(entry["task"]))
                self._cells[key] = CellScores(entry["exact_match"], entry["best_option"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path} has a line that is not a score: {line!r}") from error
        processes.wait()  # until all have read it
        self._rewrite()

    def find(self, state: str, task: str, compute: Callable[[], CellScores]) -> CellScores:
        """The cell's scores; computed and written down where they are not known yet."""
        key = (state, task)
        if key in self._cells:
            return self._cells[key]
        self._cells[key] = scores = compute()
        if self._processes.is_main:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(state, task, scores))
        return scores

    def drop(self, *states: str) -> None:
        """Forget what was scored of these states."""
        kept = {key: cell for key, cell in self._cells.items() if key[0] not in states}
        if len(kept) < len(self._cells):
            self._cells = kept
            self._rewrite()

    def _rewrite(self) -> None:
        if self._processes.is_main:
            lines = [_line(state, task, cell) for (state, task), cell in self._cells.items()]
            replace_file(self._path, "".join(lines).encode())

    def row(self, state: str) -> dict[str, CellScores]:
        """Task -> scores of one state."""
        return {task: scores for (at, task), scores in self._cells.items() if at == state}


def _line(state: str, task: str, scores: CellScores) -> str:
    return json.dumps({"state": state, "task": task, **asdict(scores)}) + "\n"


def numbers(row: Mapping[str, CellScores]) -> dict[str, dict[str, float | None]]:
    """For JSON."""
    return {task: asdict(scores) for task, scores in row.items()}
