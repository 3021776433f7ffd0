"""Where a training writes: its folder, one training at a time, and the adapter's place."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jumplora_adapters.atomic_file import temporary_path
from jumplora_adapters.errors import DataError

LOCK = ".lock"


@contextmanager
def work_folder(folder: Path) -> Iterator[None]:
    """Makes `folder` and holds it: two trainings would mix their checkpoints and logs.

    The lock ends with the process, however that ends. Raises DataError while another holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"another training is at work in {folder}: wait for it, or give another work folder"
            ) from error
        yield
    finally:
        os.close(descriptor)


def check_writable(out: Path) -> None:
    """Raises DataError unless a file can be put at `out`: better now than after hours of work."""
    if out.is_dir():
        raise DataError(f"{out} is a folder: name the file to write")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = temporary_path(out.parent)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}") from error
