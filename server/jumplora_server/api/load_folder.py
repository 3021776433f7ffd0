"""Adapters in the operator's folder, read for a client that names them by path.

Nothing outside of the folder is opened, whatever links lead there, also when they are changed while
they are looked at. Messages repeat the path that was given, and no other one.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from jumplora_adapters.peft_files import CONFIG_FILE, PICKLED_FILE, WEIGHTS_FILE
from jumplora_adapters.regular_file import NotRegular, open_regular
from jumplora_server.access.caller import ANYBODY, Caller
from jumplora_server.errors import AdapterTooLarge, InvalidInput, PathNotFound

PIECE_BYTES = 1024 * 1024
MAX_SHOWN = 200  # of a path, in a message


class LoadFolder:
    """The folder of JUMPLORA_LOAD_FOLDER. Reading it blocks."""

    def __init__(self, root: Path, max_bytes: int, caller: Caller = ANYBODY) -> None:
        """`max_bytes` is what an adapter file, or a PEFT folder's files, may have.

        To a caller of some tasks only what is called as one of them is there: a folder of that
        name, or a file of that name with `.safetensors` behind it.
        """
        self._root = root
        self._max_bytes = max_bytes
        self._caller = caller

    def pieces(self, given: str) -> Iterator[bytes]:
        """The bytes of the file at a path; of a PEFT folder a tar of its two files.

        The path begins at the folder, or names it. Raises InvalidInput for one outside and for
        what cannot be an adapter, PathNotFound, and AdapterTooLarge.
        """
        try:
            yield from self._pieces(given)
        except NotRegular as error:
            raise InvalidInput(
                f"lora_path {_said(given)} is {error.kind}: give an adapter file, or a PEFT folder"
            ) from error
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise PathNotFound(
                    f"lora_path {_said(given)}: nothing is there; a path begins in the folder "
                    "that this server may load from"
                ) from error
            raise PathNotFound(
                f"lora_path {_said(given)} cannot be read: {error.strerror}"
            ) from error

    def _pieces(self, given: str) -> Iterator[bytes]:
        with ExitStack() as opened:
            if not self._is_folder(given):
                file, size = self._open(given, given, opened)
                self._check_size(given, size)
                while piece := file.read(PIECE_BYTES):
                    yield piece
                return
            self._check_is_peft(given)
            files = [
                (name, *self._open(given, f"{given}/{name}", opened))
                for name in (CONFIG_FILE, WEIGHTS_FILE)
            ]
            self._check_size(given, sum(size for _, _, size in files))
            yield from _tar(os.path.basename(os.path.normpath(given)), files)

    def _check_is_peft(self, given: str) -> None:
        names = {name for name in (CONFIG_FILE, WEIGHTS_FILE) if not self._has(given, name)}
        if not names:
            return
        pickle = WEIGHTS_FILE in names and self._has(given, PICKLED_FILE)
        advice = (
            f": {PICKLED_FILE} is a pickle, which is not opened here; save the adapter again, with "
            "save_pretrained(folder, safe_serialization=True)"
            if pickle
            else f": give an adapter file, or a PEFT folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
        )
        raise InvalidInput(
            f"lora_path {_said(given)} is a folder without {' and '.join(sorted(names))}{advice}"
        )

    def _check_size(self, given: str, size: int) -> None:
        if size > self._max_bytes:
            raise AdapterTooLarge(
                f"lora_path {_said(given)} has {size} bytes; at most {self._max_bytes} are allowed"
            )

    def _has(self, given: str, name: str) -> bool:
        return self._mode(given, f"{given}/{name}") is not None

    def _is_folder(self, given: str) -> bool:
        mode = self._mode(given, given)
        return mode is not None and stat.S_ISDIR(mode)

    def _mode(self, given: str, path: str) -> int | None:
        """What lies at a path of the folder; None for nothing."""
        *parents, name = self._resolved(given, path)
        with ExitStack() as opened:
            try:
                folder = self._enter(parents, opened)
                return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            except FileNotFoundError:
                return None

    def _open(self, given: str, path: str, opened: ExitStack) -> tuple[BinaryIO, int]:
        """An ordinary file of the folder, and its size."""
        *parents, name = self._resolved(given, path)
        with ExitStack() as entered:
            descriptor = open_regular(name, folder=self._enter(parents, entered))
        file = opened.enter_context(os.fdopen(descriptor, "rb"))
        return file, os.fstat(descriptor).st_size

    def _enter(self, parents: Sequence[str], opened: ExitStack) -> int:
        """A descriptor of the last of some folders, one in the other. No link is followed: those
        that were there are resolved, and what became one since is refused."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        folder = os.open(os.path.realpath(self._root), flags)
        opened.callback(os.close, folder)
        for name in parents:
            folder = os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
            opened.callback(os.close, folder)
        return folder

    def _resolved(self, given: str, path: str) -> list[str]:
        """The names from the folder to what a path means, without links; ["."] is the folder.

        Raises InvalidInput where that is outside. The names alone are judged first, so that no
        path outside is looked at.
        """
        real = os.path.realpath(self._root)
        try:
            path.encode()
            for root in (os.path.abspath(self._root), real):
                named = os.path.relpath(os.path.join(root, path), root)
                if not _is_outside(named):
                    self._check_seen(named.split("/")[0])
                    found = os.path.relpath(os.path.realpath(os.path.join(real, named)), real)
                    if not _is_outside(found):
                        return found.split("/")
        except ValueError:  # NUL, or half a surrogate pair
            pass
        raise InvalidInput(
            f"lora_path {_said(given)} is not in the folder that this server may load from, or a "
            "link leads out of it: give a path that begins in that folder and stays there"
        )

    def _check_seen(self, entry: str) -> None:
        """Raise FileNotFoundError for an entry of the folder that the caller may not see. By its
        name alone, before it is looked at; where a link of it leads is the operator's own choice.
        """
        seen = map(self._caller.may_see, (entry, entry.removesuffix(".safetensors")))
        if self._caller.tasks is not None and not any(seen):
            raise FileNotFoundError(errno.ENOENT, "it is not of this caller's tasks")


def _said(given: str) -> str:
    return ascii(given[:MAX_SHOWN])


def _is_outside(relative: str) -> bool:
    return relative == ".." or relative.startswith("../")


def _tar(folder: str, files: Sequence[tuple[str, BinaryIO, int]]) -> Iterator[bytes]:
    """A tar of files, in a folder unless that is "."."""
    for name, file, size in files:
        entry = tarfile.TarInfo(name if folder == "." else f"{folder}/{name}")
        entry.size = size
        yield entry.tobuf()
        left = size
        while left:
            piece = file.read(min(left, PIECE_BYTES))
            if not piece:
                raise PathNotFound(f"{name} became shorter while it was read: load it again")
            left -= len(piece)
            yield piece
        yield bytes(-size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)
