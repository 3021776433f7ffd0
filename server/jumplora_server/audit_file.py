"""The audit log in a file of its own, which no request waits for.

Lines go through a bounded queue to one thread. Where the disk is full or hangs, lines are lost in
the file, counted and complained of in the log, which has them all.
"""

from __future__ import annotations

import logging
import queue
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from logging.handlers import QueueHandler, WatchedFileHandler
from pathlib import Path

from jumplora_server.logs import JsonLines

MOST_LINES = 10_000  # that wait for the disk
COMPLAINT_SECONDS = 60.0  # between two lines about what was lost
CLOSE_SECONDS = 5.0  # for the last lines at the end
_log = logging.getLogger(__name__)


class Complaints:
    """Counts lost lines, and says so once in a while."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._lost = 0
        self._said: float | None = None

    def lose(self, why: str) -> None:
        """Count a line that is not in the file."""
        with self._lock:
            self._lost += 1
            now = self._clock()
            if self._said is not None and now - self._said < COMPLAINT_SECONDS:
                return
            self._said = now
            lost = self._lost
        _log.error(
            "JUMPLORA_AUDIT_FILE %s: %s; lines that it lacks until now: %d. The log has them",
            self._path,
            why,
            lost,
        )


class _File(WatchedFileHandler):
    """Appends; opens the path again once another file, or none, is there (logrotate)."""

    def __init__(self, path: Path, complaints: Complaints) -> None:
        super().__init__(path, encoding="utf-8")
        self.setFormatter(JsonLines())
        self._complaints = complaints

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; where that fails, the line is lost and the next one tries again."""
        try:
            self.reopenIfNeeded()
            if self.stream is None:  # the last try to open it failed
                self.stream = self._open()
                self._statstream()
        except OSError as error:
            self._complaints.lose(error.strerror or str(error))
            return
        logging.StreamHandler.emit(self, record)

    def handleError(self, record: logging.LogRecord) -> None:  # logging's name
        """Count the line that could not be written; the next one opens the file again."""
        del record
        error = sys.exception()
        self._complaints.lose(getattr(error, "strerror", None) or str(error))
        stream, self.stream = self.stream, None
        if stream is not None:
            with suppress(OSError):  # it tries once more to write what it holds
                stream.close()


class _Queued(QueueHandler):
    """Puts lines into the queue and never waits."""

    def __init__(
        self, lines: queue.Queue[logging.LogRecord | None], complaints: Complaints
    ) -> None:
        super().__init__(lines)
        self._most = lines.maxsize
        self._complaints = complaints

    def enqueue(self, record: logging.LogRecord) -> None:
        """Take a line, if there is room."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self._complaints.lose(f"{self._most} lines wait, the disk does not answer")


class AuditFile:
    """Writes what `logger` says to a file, until it is closed."""

    def __init__(
        self,
        path: Path,
        logger: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        most_lines: int = MOST_LINES,
    ) -> None:
        """Raises OSError, with a text for the operator, where the file cannot be opened."""
        complaints = Complaints(path, clock)
        self._lines: queue.Queue[logging.LogRecord | None] = queue.Queue(most_lines)
        try:
            with suppress(FileNotFoundError):
                if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
                    raise OSError("it is not an ordinary file")
            self._file = _File(path, complaints)
        except OSError as error:
            raise OSError(
                f"{path} cannot be appended to: {error.strerror or error}; another file is set by "
                "--audit-file or JUMPLORA_AUDIT_FILE"
            ) from error
        self._handler = _Queued(self._lines, complaints)
        self._logger = logger
        logger.addHandler(self._handler)
        # Whatever JUMPLORA_LOG_LEVEL is; the log itself has them from info on.
        logger.propagate = logger.isEnabledFor(logging.INFO)
        logger.setLevel(logging.INFO)
        # A daemon: one that hangs in a system call must not hold the end of the process.
        self._thread = threading.Thread(target=self._write_all, name="audit-file", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, for a few seconds at most."""
        self._logger.removeHandler(self._handler)
        with suppress(queue.Full):
            self._lines.put(None, timeout=CLOSE_SECONDS)
        self._thread.join(CLOSE_SECONDS)

    def _write_all(self) -> None:
        while (record := self._lines.get()) is not None:
            self._file.handle(record)
        self._file.close()
