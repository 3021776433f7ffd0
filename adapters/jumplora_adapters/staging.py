"""A folder in a store for what an adapter is made of; gone at the end, and swept after a crash.

It is locked while it is used, by a file in it: a sweep takes the same lock before it removes one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jumplora_adapters.atomic_file import temporary_path
from jumplora_adapters.regular_file import NotRegular, open_regular

LOCK = ".lock"


@contextmanager
def staging_folder(root: Path) -> Iterator[Path]:
    """A new folder in `root`, empty but for its lock. Raises OSError."""
    folder, descriptor = _create(root)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def remove_unless_locked(folder: Path) -> None:
    """Remove a staging folder of a process that is gone."""
    try:
        descriptor = open_regular(folder / LOCK, "create")
    except NotRegular:  # no lock of ours
        shutil.rmtree(folder, ignore_errors=True)
        return
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # locked: somebody works in it
        return
    finally:
        os.close(descriptor)


def _create(root: Path) -> tuple[Path, int]:
    # A sweep may remove the folder before it is locked, never after.
    while True:
        folder = temporary_path(root)
        folder.mkdir()
        descriptor = -1
        try:
            descriptor = open_regular(folder / LOCK, "create")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), (folder / LOCK).lstat()):
                return folder, descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            with suppress(OSError):
                shutil.rmtree(folder)
            _close(descriptor)
            raise
        _close(descriptor)


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)
