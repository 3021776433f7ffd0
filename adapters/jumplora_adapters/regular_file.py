"""Files that are opened only if they are ordinary ones: no link, pipe, folder, socket or device.

Nothing here waits for another process, and no descriptor is left open when something is refused.
Also says when a file's stamp shows that its content is still what was read.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from pathlib import Path
from typing import Literal

Stamp = tuple[int, int, int, int]
"""Inode, times of the last write and the last change (ns), size: with another one, changed."""
RACY_NS = 2_000_000_000  # the coarsest clock of a file system that is in use (FAT; NFS caches)

_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)
_FLAGS = {"read": os.O_RDONLY, "change": os.O_RDWR, "create": os.O_RDWR | os.O_CREAT}


class NotRegular(OSError):
    """Something else lies where a file belongs; `kind` names it."""

    def __init__(self, path: str | Path, kind: str) -> None:
        super().__init__(errno.EINVAL, f"it is {kind}, not an ordinary file", str(path))
        self.kind = kind


def kind_of(mode: int) -> str:
    """What an entry with this mode is, for messages."""
    if stat.S_ISREG(mode):
        return "a file"
    return next((name for test, name in _KINDS if test(mode)), "a device")


def open_regular(
    path: str | Path,
    access: Literal["read", "change", "create"] = "read",
    *,
    follow_links: bool = False,
    folder: int | None = None,
) -> int:
    """A descriptor of an ordinary file. Raises NotRegular and other OSError.

    With `folder`, a descriptor of one, the path begins there.
    """
    # Without O_NONBLOCK, opening a pipe waits for somebody to write into it.
    flags = _FLAGS[access] | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        no_links = 0 if follow_links else os.O_NOFOLLOW
        descriptor = os.open(path, flags | no_links, 0o666, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise NotRegular(path, _kind_at(path, folder)) from error
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise NotRegular(path, kind_of(mode))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def try_lock(descriptor: int, path: Path) -> bool:
    """Lock a file that was opened at `path`, until it is closed. Raises OSError.

    False, and the file is closed, where another has it or it was replaced just now.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            return True
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return False


def stamp_of(state: os.stat_result) -> Stamp:
    """The stamp in what `stat` answered."""
    return state.st_ino, state.st_mtime_ns, state.st_ctime_ns, state.st_size


def is_settled(state: os.stat_result, read_at_ns: int) -> bool:
    """Whether an equal stamp later means equal content.

    `read_at_ns` is the time (`time.time_ns`) before the content was read. A file that was changed
    just before may be changed again within one tick of the file system's clock.
    """
    return read_at_ns - max(state.st_mtime_ns, state.st_ctime_ns) > RACY_NS


def now_ns() -> int:
    """The time that `is_settled` compares with."""
    return time.time_ns()


def _kind_at(path: str | Path, folder: int | None) -> str:
    try:
        return kind_of(os.stat(path, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return "no file"
