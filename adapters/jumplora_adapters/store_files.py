"""The store's folders and files: names, pointers, leftovers, and nothing through a symbolic link.

<store>/.lock                       held while a change is made; the mark of a store
<store>/<task>/<digest>.safetensors one version
<store>/<task>/history.jsonl        every change of the pointer
<store>/<task>/current              the pointer: the desired version's digest
<store>/<task>/routing.json         what is asked beside it, if anything is
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jumplora_adapters.atomic_file import TEMP_PREFIX, sync_folder
from jumplora_adapters.errors import StoreError, StoreFull, StoreReadOnly
from jumplora_adapters.manifest import is_digest
from jumplora_adapters.regular_file import kind_of, open_regular
from jumplora_adapters.staging import remove_unless_locked

SUFFIX = ".safetensors"
CURRENT = "current"
HISTORY = "history.jsonl"
REMOVED_PREFIX = ".removed-"
POINTER_BYTES = 128  # a digest, a line end, and white space that an editor may add


def version_digests(folder: str | Path) -> list[str]:
    """Digests of the version files in a task's folder, sorted. Raises OSError."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name.removesuffix(SUFFIX)
            for entry in entries
            if entry.name.endswith(SUFFIX)
            and is_digest(entry.name.removesuffix(SUFFIX))
            and entry.is_file(follow_symlinks=False)
        )


def version_path(folder: Path, digest: str) -> Path:
    """Where a task's folder keeps a version."""
    return folder / f"{digest}{SUFFIX}"


def is_folder(path: Path) -> bool:
    """Whether there is a folder, itself and not through a link."""
    return _is(stat.S_ISDIR, path)


def exists(path: Path) -> bool:
    """Whether anything is there, a link that leads nowhere too."""
    return os.path.lexists(path)


def is_version(folder: Path, digest: str) -> bool:
    """Whether the folder and the version's file in it are there, and neither is a link."""
    return is_folder(folder) and _is(stat.S_ISREG, version_path(folder, digest))


def read_pointer(folder: Path) -> str | None:
    """The digest in a task's `current`; None if it has none. Raises StoreError."""
    path = folder / CURRENT
    try:
        mode = folder.lstat().st_mode
        if not stat.S_ISDIR(mode):
            raise StoreError(f"{folder} is {kind_of(mode)}; a task is a folder")
        descriptor = open_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    try:
        content = os.read(descriptor, POINTER_BYTES + 1)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return _digest_in(path, content)


def _digest_in(path: Path, content: bytes) -> str:
    text = content.decode("ascii", errors="replace").strip()
    if len(content) > POINTER_BYTES or not is_digest(text):
        raise StoreError(f"{path} holds {text[:80]!r}; 64 hexadecimal digits belong in it")
    return text


def may_be_changed(path: Path) -> bool:
    """Whether an ordinary file may be read and written by us, or is not there."""
    try:
        os.close(open_regular(path, "change"))
    except FileNotFoundError:
        return True
    except PermissionError:
        return False
    return True


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn an OSError of what is done to the store into a StoreError that says what to do."""
    try:
        yield
    except OSError as error:
        kind, advice = _CAUSES.get(error.errno or 0, (StoreError, ""))
        raise kind(f"the store cannot be written: {error}{advice}") from error


_FULL = (StoreFull, "; nothing was changed: make room and try again")
_READ_ONLY = (StoreReadOnly, "; nothing was changed: this process may not write there")
_CAUSES: dict[int, tuple[type[StoreError], str]] = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
}


def make_way(root: Path, path: Path, *, keep: int = stat.S_IFREG) -> None:
    """Remove what lies at `path` unless it is of the type `keep`; links are not followed.

    It is renamed into the store's own leftovers first, so that it is gone in one step.
    """
    try:
        if stat.S_IFMT(path.lstat().st_mode) != keep:
            set_aside(root, path)
    except FileNotFoundError:
        return


def set_aside(root: Path, path: Path) -> None:
    """Take an entry of a task, or a task, out of its place in one durable step, then remove it."""
    aside = detach(root, path)
    remove_entry(aside)


def detach(root: Path, path: Path) -> Path:
    """Rename an entry to a name that no reader looks at and a sweep removes."""
    aside = root / f"{REMOVED_PREFIX}{secrets.token_hex(8)}"
    path.rename(aside)
    sync_folder(path.parent)
    return aside


def remove_entry(path: Path) -> None:
    """Remove a file, a link, a pipe or a whole folder, as far as that is possible."""
    with suppress(OSError, RecursionError):
        if is_folder(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what interrupted changes left in a folder, except files still being worked on."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError:  # gone, or not ours to read: nothing of a change is there
        return
    for name in names:
        if name.startswith(REMOVED_PREFIX):
            remove_entry(folder / name)
        elif name.startswith(TEMP_PREFIX):
            _remove_unless_locked(folder / name)


def _remove_unless_locked(path: Path) -> None:
    if is_folder(path):
        remove_unless_locked(path)
        return
    if not _is(stat.S_ISREG, path):
        remove_entry(path)
        return
    try:
        descriptor = open_regular(path, "change")
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except OSError:  # locked: somebody works on it
        return
    finally:
        os.close(descriptor)


def _is(test: object, path: Path) -> bool:
    try:
        return bool(callable(test) and test(path.lstat().st_mode))
    except OSError:
        return False
