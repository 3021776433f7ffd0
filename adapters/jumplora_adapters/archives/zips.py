"""The entries of a zip file. The standard library reads it once its directory is known to be small.

A zip's directory lies at its end. Each size in it is a claim: what comes out is counted.
"""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from jumplora_adapters.archives.entries import (
    MAX_ENTRIES,
    PIECE_BYTES,
    Entry,
    check_entries,
    clean_name,
)
from jumplora_adapters.errors import ArchiveError
from jumplora_adapters.printable import shown

MAX_DIRECTORY_BYTES = 1024 * 1024
_END = struct.Struct("<4s4H2LH")  # the end of the central directory
_END_MARK = b"PK\x05\x06"
_END_64_MARK = b"PK\x06\x07"
_END_64_BYTES = 20
_MAX_COMMENT = 65_535
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Zip:
    """A zip in an open file that can be sought."""

    def __init__(self, file: BinaryIO, file_bytes: int) -> None:
        directory = _check_end(file, file_bytes)
        with _faults():
            # Its descriptor stays open when this is dropped: it did not open the file.
            self._zip = zipfile.ZipFile(file)
        self._infos = self._zip.infolist()
        self._entries = check_entries(
            _entry(number, info, directory) for number, info in enumerate(self._infos)
        )

    @property
    def entries(self) -> Sequence[Entry]:
        """All of it, links and encrypted files refused."""
        return self._entries

    def read(self, entry: Entry) -> Iterator[bytes]:
        """A file's bytes, in pieces."""
        found = 0
        with _faults(), self._zip.open(self._infos[entry.number]) as source:
            while piece := source.read(PIECE_BYTES):
                found += len(piece)
                yield piece
        if found != entry.size:
            raise ArchiveError(f"{entry.name!r} has {found} bytes, the directory says {entry.size}")


def _check_end(file: BinaryIO, file_bytes: int) -> int:
    """Where the directory begins. Raises ArchiveError unless it is small and where it should be.

    The standard library finds the same end, and would read a directory of any size into memory.
    """
    length = min(file_bytes, _END.size + _MAX_COMMENT)
    file.seek(file_bytes - length)
    tail = file.read(length)
    position = tail.rfind(_END_MARK)
    if position < 0 or len(tail) - position < _END.size:
        raise ArchiveError("the zip is cut off: its directory is missing")
    _, disk, first_disk, here, entries, size, begin, comment = _END.unpack_from(tail, position)
    at = file_bytes - length + position
    if comment != len(tail) - position - _END.size:
        raise ArchiveError("there is something behind the end of the zip")
    file.seek(max(0, at - _END_64_BYTES))
    if file.read(len(_END_64_MARK)) == _END_64_MARK or 0xFFFF in (disk, entries):
        raise ArchiveError("a zip64 archive is not taken: at most 65,534 entries below 4 GiB")
    if (disk, first_disk) != (0, 0) or here != entries:
        raise ArchiveError("a zip in several parts is not taken")
    if entries > MAX_ENTRIES:
        raise ArchiveError(f"it has {entries} entries; at most {MAX_ENTRIES} are allowed")
    if size > MAX_DIRECTORY_BYTES:
        raise ArchiveError(
            f"its directory has {size} bytes; at most {MAX_DIRECTORY_BYTES} are allowed"
        )
    if begin + size != at:
        raise ArchiveError("the directory of the zip is not where its end says")
    return int(begin)


def _entry(number: int, info: zipfile.ZipInfo, directory: int) -> Entry:
    name = info.orig_filename.replace("\\", "/")  # Windows PowerShell 5 joins names by "\\"
    said = shown(repr(name), 80)
    if info.flag_bits & _ENCRYPTED:
        raise ArchiveError(f"{said} is encrypted: send the archive without a password")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ArchiveError(
            f"{said} is a link or a device: files and folders only are allowed; "
            "`zip -r` without --symlinks packs what links lead to"
        )
    is_folder = name.endswith("/")
    if (kind == stat.S_IFDIR) and not is_folder:
        raise ArchiveError(f"{said} is a folder by its mode and a file by its name")
    if not is_folder and info.compress_type not in _METHODS:
        raise ArchiveError(f"{said} is compressed by method {info.compress_type}; use deflate")
    if info.header_offset >= directory:
        raise ArchiveError(f"{said} begins behind the files of the zip")
    return Entry(number, clean_name(name), info.file_size, is_folder)


@contextmanager
def _faults() -> Iterator[None]:
    """Whatever the library raises means a damaged zip; a disk's error stays what it is."""
    try:
        yield
    except (OSError, ArchiveError):
        raise
    except Exception as error:
        raise ArchiveError(f"the zip is damaged: {shown(str(error), 200)}") from error
