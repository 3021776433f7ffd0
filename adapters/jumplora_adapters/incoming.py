"""A file on its way into a store: written under a temporary name, hashed while it is written."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from jumplora_adapters.atomic_file import temporary_path
from jumplora_adapters.errors import FormatError
from jumplora_adapters.file_kind import HEAD_BYTES
from jumplora_adapters.store_files import store_errors


class Incoming:
    """Write, finish, then give it to `Store.adopt`; what is not adopted is gone at the end.

    The file is locked while it is worked on, so that a sweep leaves it alone. Any thread may call
    `discard`, which waits for a write under way.
    """

    def __init__(self, root: Path, max_file_bytes: int) -> None:
        """Raises StoreError; the folder `root` must be there."""
        self.size = 0
        self.head = b""  # the first HEAD_BYTES of it
        self._digest: str | None = None
        self._hasher = hashlib.sha256()
        self._max_file_bytes = max_file_bytes
        self._lock = threading.Lock()
        self._is_abandoned = False
        with store_errors():
            self.path, self._file = _create(root)

    @property
    def digest(self) -> str:
        """SHA-256 of the whole file. Only after `finish`."""
        if self._digest is None:
            raise ValueError("the file is not finished")
        return self._digest

    @property
    def is_closed(self) -> bool:
        """Whether it was discarded, or adopted and let go."""
        return self._file.closed

    @property
    def file(self) -> BinaryIO:
        """The file, open for reading and writing."""
        return self._file

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Add a piece. Raises FormatError (file_size) over the limit, StoreError."""
        with self._working():
            self.size += len(chunk)
            if self.size > self._max_file_bytes:
                raise FormatError(
                    f"the file has more than {self._max_file_bytes} bytes; more are not allowed",
                    code="file_size",
                )
            if len(self.head) < HEAD_BYTES:
                self.head += bytes(chunk[: HEAD_BYTES - len(self.head)])
            self._hasher.update(chunk)
            self._file.write(chunk)

    def finish(self) -> str:
        """Make the file durable; its digest. Raises StoreError."""
        with self._working():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._digest = self._hasher.hexdigest()
            return self._digest

    def abandon(self) -> bool:
        """Have a write under way discard the file at its end; False where there is none.

        Waits for nothing.
        """
        self._is_abandoned = True
        if not self._lock.acquire(blocking=False):
            return True
        self._lock.release()
        return False

    def discard(self) -> None:
        """Remove the file, unless it was adopted. May be called twice."""
        with self._lock:
            if self._file.closed:
                return
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
            try:
                self._file.close()
            except OSError:  # what it still held in memory found no room on the disk
                return

    @contextmanager
    def _working(self) -> Iterator[None]:
        try:
            with self._lock, store_errors():
                yield
        finally:
            if self._is_abandoned:  # looked at after the lock is free: `abandon` saw it held
                self.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()


def _create(root: Path) -> tuple[Path, BinaryIO]:
    # No store lock is needed: a sweep may remove the file before it is locked, never after.
    while True:
        path = temporary_path(root)
        file = path.open("x+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.lstat()):
                return path, file
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            path.unlink(missing_ok=True)
            file.close()
            raise
        file.close()
