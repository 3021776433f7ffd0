"""The log across a kill."""

from __future__ import annotations

import json
from pathlib import Path

from jumplora_adapters.training.journal import Journal


def _steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_steps_that_are_done_again_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    with Journal(path, resume_step=0) as journal:
        for step in range(1, 6):
            journal.write(step, loss=1.0)
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # torn by a kill
    with Journal(path, resume_step=3) as journal:
        journal.write(4, loss=0.5)
    assert _steps(path) == [1, 2, 3, 4]


def test_a_fresh_run_starts_a_fresh_log(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"step": 0}\n')
    with Journal(path, resume_step=0):
        pass
    assert path.read_text() == ""
