"""Files that appear whole or not at all, also when the power fails."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

TEMP_PREFIX = ".tmp-"


def temporary_path(folder: Path) -> Path:
    """A new name in `folder` that no reader looks at and a sweep may remove."""
    return folder / f"{TEMP_PREFIX}{secrets.token_hex(8)}"


def _go_on() -> None:
    return


def replace_file(path: Path, content: bytes, *, before_rename: Callable[[], None] = _go_on) -> None:
    """Write `content` to `path`: temporary file beside it, fsync, rename, fsync of the folder."""
    temporary = temporary_path(path.parent)
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        before_rename()
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
