"""Task ids of a store for a shell's completion: quickly, and without a word where there are none.

Each press of the key starts a process, so nothing heavy is imported here.
"""

from __future__ import annotations

import os
from pathlib import Path

import typer


def stored_tasks(context: typer.Context, incomplete: str) -> list[str]:
    """The tasks of the command's --store whose names begin so."""
    store = context.params.get("store")
    return [] if store is None else fitting(tasks_in(Path(store)), incomplete)


def tasks_in(store: Path) -> list[str]:
    """The folders that have a pointer."""
    try:
        with os.scandir(store) as entries:
            return [each.name for each in entries if (store / each.name / "current").is_file()]
    except OSError:
        return []


def fitting(tasks: list[str], incomplete: str) -> list[str]:
    """Those that begin so, sorted."""
    return sorted(task for task in tasks if task.startswith(incomplete))
