"""How a batch writes a file: into a journal beside it, NAME.part, which then takes its place.

The journal is the beginning of the new file: lines of the old one that are kept, and new lines, in
the order of the rows. So the journal, and behind it the lines of the old file that it does not have
yet, are at any moment all that is known: `_settle` puts them together when a run ends and, after a
kill, when the next one begins. It may be killed itself, anywhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from jumplora_adapters.errors import DataError
from jumplora_adapters.regular_file import NotRegular, kind_of, open_regular, try_lock
from jumplora_server.batch.lines import MOST_WRITTEN, bounded
from jumplora_server.batch.results import OtherRows, Written, written_in

_BLOCK = 65536
_FIRST = b'{"line": '  # all lines of a batch begin so


class Journal:
    """The journal of one file, locked against other runs. `path` is the file.

    `has_news`: whether a line was written that the file does not have.
    """

    def __init__(self, path: Path, descriptor: int, *, overwrite: bool) -> None:
        self.path = path
        self.has_news = False
        self._descriptor = descriptor
        self._overwrite = overwrite
        self._left = self.old()

    def old(self) -> Iterator[Written]:
        """The lines of the file, read once more for each call."""
        return iter(()) if self._overwrite or not self.path.exists() else written_in(self.path)

    def keep(self, before: int | None = None) -> Iterator[Written]:
        """Take over the old lines of rows before this one (None: of all); yields each.

        The old line of the row itself is left out.
        """
        for written in self._left:
            if written.line == before:
                return
            self._append(written.text)
            yield written

    def write(self, line: bytes) -> None:
        """A new line, which no kill of this process loses."""
        self._append(line)
        if self._overwrite and not self.has_news:
            self.path.unlink(missing_ok=True)  # only now, when something answers
        self.has_news = True

    def _append(self, line: bytes) -> None:
        while line:
            line = line[os.write(self._descriptor, line) :]


def part_of(path: Path) -> Path:
    """Where the journal of a file is."""
    return path.with_name(f"{path.name}.part")


@contextmanager
def journal_of(path: Path, *, overwrite: bool = False) -> Iterator[Journal]:
    """The journal, with what a killed run left behind in the file. On leaving, all is in the file.

    With `overwrite` the file goes with the first new line. Where nothing was answered, or where the
    file has answers to other rows, it is left as it was. Raises DataError.
    """
    if path.exists() and not path.is_file():
        raise DataError(
            f"{path} is {kind_of(path.stat().st_mode)}: give --out a file, or - for stdout"
        )
    path = Path(os.path.realpath(path))  # a link stays one
    part = part_of(path)
    while os.fstat(descriptor := _locked(path, part)).st_size:
        try:
            _check_own(part)
            _settle(path, part, descriptor)
        finally:
            os.close(descriptor)
    journal = Journal(path, descriptor, overwrite=overwrite)
    try:
        yield journal
    except OtherRows:
        journal.has_news = False  # these are answers to other rows, too
        raise
    finally:
        try:
            if journal.has_news or not path.exists():
                _settle(path, part, descriptor)
            else:
                part.unlink()
        finally:
            os.close(descriptor)


def _locked(path: Path, part: Path) -> int:
    """The journal, made or as a killed run left it. Closing it ends the lock."""
    try:
        descriptor = open_regular(part, "create")
    except NotRegular as error:
        raise DataError(
            f"{part} is {error.kind}, where the journal of {path} belongs: move it away"
        ) from error
    if try_lock(descriptor, part):
        return descriptor
    raise DataError(
        f"another run writes {path}: wait until it ends, or give another --out "
        f"(`fuser {part}` names its process)"
    )


def _check_own(part: Path) -> None:
    """Raise DataError for a file that no batch wrote. Its last line may be torn anywhere."""
    try:
        for _ in written_in(part):
            pass
        with part.open("rb") as file:
            if _FIRST.startswith(file.read(len(_FIRST))):
                return
    except DataError:
        pass
    raise DataError(
        f"{part} is not of `jumplora batch`, which needs the name for its journal: move it away"
    )


def _settle(path: Path, part: Path, descriptor: int) -> None:
    """Put the old lines that the journal does not have behind it, and it in the file's place."""
    _cut_torn(descriptor)
    with part.open("rb") as journal:
        rows = sum(1 for _ in journal)
    os.lseek(descriptor, 0, os.SEEK_END)
    if path.exists():
        os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode))
        with path.open("rb") as old, open(descriptor, "ab", _BLOCK, closefd=False) as file:
            lines = islice(bounded(old, MOST_WRITTEN), rows, None)
            file.writelines(line for line in lines if line.endswith(b"\n"))
    os.replace(part, path)


def _cut_torn(descriptor: int) -> None:
    size = whole = os.fstat(descriptor).st_size
    while whole:
        start = max(0, whole - _BLOCK)
        end = os.pread(descriptor, whole - start, start).rfind(b"\n")
        if end >= 0:
            whole = start + end + 1
            break
        whole = start
    if whole < size:
        os.ftruncate(descriptor, whole)
