"""From an archive to a PEFT folder: the two files that a conversion reads, and no other.

Limits hold after expansion: bytes are counted as they come out, whatever the archive says.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from jumplora_adapters.archives.entries import PIECE_BYTES, Archive, choose
from jumplora_adapters.archives.tars import Tar
from jumplora_adapters.archives.zips import Zip
from jumplora_adapters.errors import ArchiveError, ArchiveTooLarge, WrongFile
from jumplora_adapters.file_kind import HEAD_BYTES, ArchiveKind, kind_of
from jumplora_adapters.peft_files import CONFIG_FILE, MAX_CONFIG_BYTES, WEIGHTS_FILE

UNNAMED = "peft"  # the folder's name, where the files lie at the root of the archive


def unpack(file: BinaryIO, kind: ArchiveKind, place: Path, max_bytes: int) -> Path:
    """Write the files of the PEFT folder in an archive to a folder in `place`, and return it.

    `place` is an empty folder; it keeps what was written when this fails. `max_bytes` is what the
    archive without its compression, and its files, may have. Raises ArchiveError, WrongFile, and
    OSError of the disk.
    """
    if kind == "gzip":
        path = place / "unzipped.tar"
        _write(_inflated(file), path, max_bytes, "the archive")
        with path.open("rb") as tar:
            path.unlink()  # its bytes go when it is closed
            if _kind_inside(tar.read(HEAD_BYTES)) != "tar":
                raise WrongFile(
                    "it is a gzip file of something else than a tar: send a PEFT folder as a "
                    "zip, a tar or a tar.gz, and an adapter file as it is"
                )
            return unpack(tar, "tar", place, max_bytes)
    file_bytes = os.fstat(file.fileno()).st_size
    archive: Archive = Zip(file, file_bytes) if kind == "zip" else Tar(file, file_bytes)
    chosen = choose(archive.entries)
    parent = place / "unpacked"
    folder = parent / (chosen.folder or UNNAMED)
    parent.mkdir()
    folder.mkdir()
    _write(archive.read(chosen.config), folder / CONFIG_FILE, MAX_CONFIG_BYTES, CONFIG_FILE)
    _write(archive.read(chosen.weights), folder / WEIGHTS_FILE, max_bytes, WEIGHTS_FILE)
    return folder


def _write(pieces: Iterable[bytes], path: Path, most: int, what: str) -> None:
    size = 0
    with path.open("xb") as file:
        for piece in pieces:
            size += len(piece)
            if size > most:
                raise ArchiveTooLarge(
                    f"{what} has more than {most} bytes once it is unpacked; more are not allowed"
                )
            file.write(piece)


def _inflated(file: BinaryIO) -> Iterator[bytes]:
    """What a gzip file of one member holds, in pieces."""
    file.seek(0)
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    packed = b""
    try:
        while not inflater.eof:
            packed = packed or file.read(PIECE_BYTES)
            piece = inflater.decompress(packed, PIECE_BYTES)
            if not packed and not piece and not inflater.eof:
                raise ArchiveError("the gzip file is cut off")
            yield piece
            packed = inflater.unconsumed_tail
    except zlib.error as error:
        raise ArchiveError(f"the gzip file is damaged: {error}") from error
    rest = inflater.unused_data
    while rest:  # padding
        if any(rest):
            raise ArchiveError("there is something behind the end of the gzip file")
        rest = file.read(PIECE_BYTES)


def _kind_inside(head: bytes) -> str:
    try:
        return kind_of(head)
    except WrongFile as error:
        raise WrongFile(f"in the gzip file: {error}") from error
