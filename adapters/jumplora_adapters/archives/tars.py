"""The entries of a tar file: ustar, GNU and pax headers, and nothing but files and folders.

The standard library's reader reads headers of any size into memory, and makes links, devices and
sparse files. This one reads blocks of 512 bytes, and few bytes of names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from jumplora_adapters.archives.entries import PIECE_BYTES, Entry, check_entries, clean_name
from jumplora_adapters.errors import ArchiveError
from jumplora_adapters.printable import shown

BLOCK = 512
MAX_EXTRA_BYTES = 64 * 1024  # of a long name or a pax header; macOS writes a few hundred
MAX_EXTRA_HEADERS = 4  # in front of one entry
_NO_FILES = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}
_ADVICE = {
    b"1": "; `tar --hard-dereference` packs files in place of hard links",
    b"2": "; `tar --dereference` packs what links lead to, as the files of a hub's cache are",
}


@dataclass(frozen=True, slots=True)
class _Header:
    name: bytes
    size: int
    kind: bytes


class Tar:
    """A tar in an open file that can be sought."""

    def __init__(self, file: BinaryIO, file_bytes: int) -> None:
        self._file = file
        self._file_bytes = file_bytes
        self._begins: list[int] = []
        self._entries = check_entries(self._listed())

    @property
    def entries(self) -> Sequence[Entry]:
        """All of it, links and devices refused."""
        return self._entries

    def read(self, entry: Entry) -> Iterator[bytes]:
        """A file's bytes, in pieces."""
        self._file.seek(self._begins[entry.number])
        left = entry.size
        while left:
            piece = self._file.read(min(left, PIECE_BYTES))
            if not piece:
                raise ArchiveError("the archive ended while it was read")
            left -= len(piece)
            yield piece

    def _listed(self) -> Iterator[Entry]:
        self._file.seek(0)
        number = 0
        while (found := self._next()) is not None:
            header, name = found
            begin = self._file.tell()
            is_folder = header.kind == b"5" or name.endswith("/")
            self._begins.append(begin)
            yield Entry(number, clean_name(name), header.size, is_folder)
            number += 1
            self._skip(header.size, begin=begin)

    def _next(self) -> tuple[_Header, str] | None:
        """The next entry's header and name; None at the end of the archive."""
        long_name: bytes | None = None
        for _ in range(MAX_EXTRA_HEADERS + 1):
            header = self._header()
            if header is None:
                if long_name is not None:
                    raise ArchiveError("the archive ends behind the name of an entry")
                self._check_end()
                return None
            if header.kind in _NO_FILES:
                name = _text(long_name or header.name)
                raise ArchiveError(
                    f"{shown(repr(name), 80)} is {_NO_FILES[header.kind]}: files and folders only "
                    f"are allowed{_ADVICE.get(header.kind, '')}"
                )
            if header.kind in (b"0", b"\0", b"5"):
                return header, _text(header.name if long_name is None else long_name)
            extra = self._extra(header)
            if header.kind == b"L":
                long_name = extra.rstrip(b"\0")
            elif header.kind == b"x":
                long_name = _pax_path(extra, long_name)
        raise ArchiveError(f"an entry has more than {MAX_EXTRA_HEADERS} headers in front")

    def _header(self) -> _Header | None:
        block = self._file.read(BLOCK)
        if len(block) != BLOCK:
            raise ArchiveError("the archive ends too early: two blocks of zeros belong at its end")
        if not any(block):
            return None
        blank = block[:148] + b" " * 8 + block[156:]
        if sum(blank) != _number(block[148:156]):
            raise ArchiveError(f"the header at byte {self._file.tell() - BLOCK} is damaged")
        name = block[:100].partition(b"\0")[0]
        prefix = block[345:500].partition(b"\0")[0]
        if prefix and block[257:263] == b"ustar\0":  # GNU's own headers have other fields there
            name = prefix + b"/" + name
        size = 0 if block[156:157] == b"5" else _number(block[124:136])
        if size > self._file_bytes - self._file.tell():
            raise ArchiveError("the archive ends inside of an entry")
        return _Header(name, size, block[156:157])

    def _extra(self, header: _Header) -> bytes:
        """What a header says that belongs to the next one."""
        if header.kind not in (b"L", b"K", b"x", b"g"):
            raise ArchiveError(f"an entry of type {header.kind!r} is not known")
        if header.size > MAX_EXTRA_BYTES:
            raise ArchiveError(
                f"a header of {header.size} bytes; at most {MAX_EXTRA_BYTES} are allowed"
            )
        extra = self._file.read(header.size)
        self._skip(header.size, begin=self._file.tell() - len(extra))
        return extra

    def _skip(self, size: int, *, begin: int) -> None:
        """Go to the block behind `size` bytes from `begin`."""
        self._file.seek(begin + (size + BLOCK - 1) // BLOCK * BLOCK)

    def _check_end(self) -> None:
        """Nothing but zeros may follow, so that every reader sees the same entries."""
        while piece := self._file.read(PIECE_BYTES):
            if any(piece):
                raise ArchiveError("there is more behind the end of the archive")


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU's form for large numbers
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.strip(b" \0")
    if not all(0x30 <= digit <= 0x37 for digit in digits):
        raise ArchiveError(f"a header has {field!r} in place of a number")
    return int(digits or b"0", 8)


def _pax_path(extra: bytes, path: bytes | None) -> bytes | None:
    """What a pax header says of the name. Raises ArchiveError where it changes more than that."""
    rest = extra
    while rest:
        length, _, record = rest.partition(b" ")
        if not length.isdigit() or not 0 < int(length[:9]) <= len(rest):
            raise ArchiveError("a pax header is damaged")
        record, rest = rest[len(length) + 1 : int(length)], rest[int(length) :]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise ArchiveError("a pax header is damaged")
        if key == b"size" or key.startswith(b"GNU.sparse"):
            raise ArchiveError(
                f"a pax header has {_text(key)!r}: sparse and huge files are refused"
            )
        if key == b"path":
            path = value[:-1]
    return path


def _text(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArchiveError(f"the name {shown(repr(name), 80)} is not UTF-8") from error
