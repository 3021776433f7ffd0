"""The lines of a file, of which none fills the memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

MOST_ROW = 1 << 20  # bytes of a row; a server takes no larger request, unless it is set to
MOST_WRITTEN = 1 << 26  # bytes of a row's line in the output


class Readable(Protocol):
    """An open file, of bytes."""

    def readline(self, size: int = -1, /) -> bytes:
        """The next line, or its first `size` bytes; nothing at the end."""


def bounded(file: Readable, most: int) -> Iterator[bytes]:
    """Each line; of one with more than `most` bytes the first `most` + 1 of them, without an end.

    A last line may have no end either.
    """
    while line := file.readline(most + 1):
        yield line
        while len(line) > most and not line.endswith(b"\n"):  # its rest
            line = file.readline(most + 1)


def is_cut(line: bytes, most: int) -> bool:
    """Whether `bounded` left something of the line out."""
    return len(line) > most and not line.endswith(b"\n")
