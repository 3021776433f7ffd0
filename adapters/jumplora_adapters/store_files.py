"""The store's folders and files: names, locks, pointers, and nothing through a symbolic link.

<store>/.lock                       held while a change is made
<store>/<task>/<digest>.safetensors one version
<store>/<task>/history.jsonl        every change of the pointer
<store>/<task>/current              the pointer: the desired version's digest
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from jumplora_adapters.atomic_file import TEMP_PREFIX, temporary_path
from jumplora_adapters.errors import FormatError, StoreError
from jumplora_adapters.manifest import is_digest, is_task_id

SUFFIX = ".safetensors"
CURRENT = "current"
HISTORY = "history.jsonl"
LOCK = ".lock"
REMOVED_PREFIX = ".removed-"
COPY_BYTES = 1024 * 1024


def task_folders(root: Path) -> list[str]:
    """Names of the store's folders that may hold a task, sorted; none while there is no store."""
    try:
        with os.scandir(root) as entries:
            return sorted(
                entry.name
                for entry in entries
                if is_task_id(entry.name) and entry.is_dir(follow_symlinks=False)
            )
    except FileNotFoundError:
        return []


def version_digests(folder: Path) -> list[str]:
    """Digests of the version files in a task's folder, sorted; none if it is not there."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name.removesuffix(SUFFIX)
                for entry in entries
                if entry.name.endswith(SUFFIX)
                and is_digest(entry.name.removesuffix(SUFFIX))
                and entry.is_file(follow_symlinks=False)
            )
    except (FileNotFoundError, NotADirectoryError):
        return []


def version_path(folder: Path, digest: str) -> Path:
    """Where a task's folder keeps a version."""
    return folder / f"{digest}{SUFFIX}"


def is_version(folder: Path, digest: str) -> bool:
    """Whether the folder and the version's file in it are there, and neither is a link."""
    try:
        return stat.S_ISDIR(folder.lstat().st_mode) and stat.S_ISREG(
            version_path(folder, digest).lstat().st_mode
        )
    except (FileNotFoundError, NotADirectoryError):
        return False


def read_pointer(folder: Path) -> str | None:
    """The digest in a task's `current`; None if it has none. Raises StoreError."""
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise StoreError(f"{folder} is a link or a file; a task is a folder")
        descriptor = os.open(folder / CURRENT, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{folder / CURRENT} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        text = file.read(128).decode("ascii", errors="replace").strip()
    if not is_digest(text):
        raise StoreError(
            f"{folder / CURRENT} holds {text[:80]!r}; 64 hexadecimal digits belong in it"
        )
    return text


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the store's lock, against threads and processes alike.

    Raises StoreError for an OSError of what is done meanwhile, such as a full disk.
    """
    try:
        descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # closing releases the lock
    except OSError as error:
        raise StoreError(f"the store cannot be written: {error}") from error


@contextmanager
def copied(source: Path, root: Path, *, max_file_bytes: int) -> Iterator[Path]:
    """A durable copy of `source` under a temporary name in the store, gone afterwards unless moved.

    The copy is locked while it is worked on, so that a sweep leaves it alone.
    Raises FormatError (file_size) when the source is larger than allowed.
    """
    temporary = temporary_path(root)
    with locked(root):  # a sweep must not come between creating the copy and locking it
        target = temporary.open("xb")
        fcntl.flock(target, fcntl.LOCK_EX)
    with target:
        try:
            with source.open("rb") as file:
                _copy(file, target, max_file_bytes)
            target.flush()
            os.fsync(target.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what interrupted changes left in a folder, except copies still being worked on."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        if name.startswith(REMOVED_PREFIX):
            shutil.rmtree(folder / name, ignore_errors=True)
        elif name.startswith(TEMP_PREFIX):
            _remove_unless_locked(folder / name)


def _copy(source: BinaryIO, target: BinaryIO, max_file_bytes: int) -> None:
    copied_bytes = 0
    while chunk := source.read(COPY_BYTES):
        copied_bytes += len(chunk)
        if copied_bytes > max_file_bytes:
            raise FormatError(
                f"the file has more than {max_file_bytes} bytes, which are allowed",
                code="file_size",
            )
        target.write(chunk)


def _remove_unless_locked(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # gone meanwhile, or a link that we did not make
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)
