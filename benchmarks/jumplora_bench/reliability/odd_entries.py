"""Kinds of odd things in a store, each a function that puts one there.

The victim is a task that serves version `old`; `new` is another sound version of it that is not in
the store. How each is put right is the business of who uses them: the entry only names its place.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jumplora_bench.reliability.versions import Version

Place = Literal["pointer", "version", "folder", "history", "names", "store"]
Told = Literal["failure", "gone or failure", "either"]
HUGE_BYTES = 4 * 1024**3


@dataclass(frozen=True, slots=True)
class Shelf:
    """The store and what may be put there; `outside` is a folder that links may point to."""

    root: Path
    victim: Path
    old: Version
    new: Version
    other: Version
    outside: Path

    @property
    def pointer(self) -> Path:
        """The victim's pointer."""
        return self.victim / "current"

    def file_of(self, version: Version) -> Path:
        """Where the victim's folder keeps a version."""
        return self.victim / f"{version.digest}.safetensors"

    def point(self, text: str) -> None:
        """Replace the pointer as a publisher does: whole, by a rename."""
        temporary = self.outside / "pointer"
        temporary.write_text(text)
        remove(self.pointer)
        temporary.rename(self.pointer)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry and what the victim's status must show. A `version` is the new, desired one."""

    name: str
    place: Place
    told: Told
    put: Callable[[Shelf], object]
    is_for_users: bool = False  # root is refused nothing by permissions


def remove(path: Path) -> None:
    """Remove whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def listen_at(path: Path) -> None:
    """Leave a socket's file; the name is bound from its folder, since such paths must be short."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def sparse(path: Path) -> None:
    """A file of 4 GB that takes no room."""
    with path.open("wb") as file:
        file.truncate(HUGE_BYTES)


def _pointer(name: str, put: Callable[[Shelf], object], told: Told = "failure") -> Entry:
    def over(shelf: Shelf) -> None:
        remove(shelf.pointer)
        put(shelf)

    return Entry(f"current: {name}", "pointer", told, over)


def _text(name: str, text: Callable[[Shelf], str], told: Told = "failure") -> Entry:
    return Entry(f"current: {name}", "pointer", told, lambda s: s.point(text(s)))


def _version(name: str, put: Callable[[Shelf, Path], object]) -> Entry:
    def add(shelf: Shelf) -> None:
        put(shelf, shelf.file_of(shelf.new))
        shelf.point(f"{shelf.new.digest}\n")

    return Entry(f"version: {name}", "version", "failure", add)


def _folder(name: str, put: Callable[[Shelf], object], told: Told = "gone or failure") -> Entry:
    def over(shelf: Shelf) -> None:
        aside = shelf.outside / "aside"
        shelf.victim.rename(aside)
        put(shelf)

    return Entry(f"task folder: {name}", "folder", told, over)


def _history(name: str, put: Callable[[Path], object]) -> Entry:
    def over(shelf: Shelf) -> None:
        path = shelf.victim / "history.jsonl"
        remove(path)
        put(path)

    return Entry(f"history: {name}", "history", "either", over)


def _store(name: str, put: Callable[[Path], object]) -> Entry:
    def over(shelf: Shelf) -> None:
        remove(shelf.root / ".lock")
        put(shelf.root / ".lock")

    return Entry(f".lock: {name}", "store", "either", over)


def _names(name: str, put: Callable[[Shelf], object]) -> Entry:
    return Entry(f"names: {name}", "names", "either", put)


def _many_files(shelf: Shelf) -> None:
    for index in range(5000):
        (shelf.victim / f"{index:064x}.safetensors").touch()


def _copied(shelf: Shelf, name: str) -> None:
    shutil.copytree(shelf.victim, shelf.root / name)


def _no_permission(shelf: Shelf) -> None:
    shelf.file_of(shelf.new).write_bytes(shelf.new.content)
    shelf.file_of(shelf.new).chmod(0)
    shelf.point(f"{shelf.new.digest}\n")


def _only_current(shelf: Shelf) -> None:
    shelf.victim.mkdir()
    shelf.point(f"{shelf.old.digest}\n")


def _hidden_names(shelf: Shelf) -> None:
    (shelf.root / "lost+found").mkdir()
    (shelf.root / ".DS_Store").touch()


def _flipped(shelf: Shelf, path: Path) -> None:
    content = bytearray(shelf.new.content)
    content[-3] ^= 64
    path.write_bytes(content)


def _dangling_folder(shelf: Shelf) -> None:
    shelf.victim.symlink_to(shelf.outside / "nowhere")


ENTRIES: tuple[Entry, ...] = (
    _pointer("a folder", lambda s: s.pointer.mkdir()),
    _pointer("a folder with files", lambda s: (s.pointer / "x").mkdir(parents=True)),
    _pointer("a FIFO", lambda s: os.mkfifo(s.pointer)),
    _pointer("a socket", lambda s: listen_at(s.pointer)),
    _pointer("a link", lambda s: s.pointer.symlink_to(s.file_of(s.old))),
    _pointer("a dangling link", lambda s: s.pointer.symlink_to("nowhere")),
    _pointer("a link to itself", lambda s: s.pointer.symlink_to("current")),
    _pointer("a link to a device", lambda s: s.pointer.symlink_to("/dev/zero")),
    _pointer("4 GB", lambda s: sparse(s.pointer)),
    _pointer("not there", lambda s: None, "gone or failure"),
    _text("empty", lambda s: ""),
    _text("garbage", lambda s: "\x00\x01 no digest \x7f"),
    _text("two lines", lambda s: f"{s.old.digest}\n{s.old.digest}\n"),
    _text("CRLF", lambda s: f"{s.old.digest}\r\n", "either"),
    _text("upper case", lambda s: f"{s.old.digest.upper()}\n"),
    _text("half a digest", lambda s: s.old.digest[:32]),
    _text("a digest that is not there", lambda s: f"{'ab' * 32}\n"),
    Entry(
        "current: no permission", "pointer", "failure",
        lambda s: s.pointer.chmod(0), is_for_users=True,
    ),
    _version("a folder", lambda s, path: path.mkdir()),
    _version("a FIFO", lambda s, path: os.mkfifo(path)),
    _version("a socket", lambda s, path: listen_at(path)),
    _version("a link", lambda s, path: path.symlink_to(s.new.path)),
    _version("a dangling link", lambda s, path: path.symlink_to("nowhere")),
    _version("empty", lambda s, path: path.touch()),
    _version("truncated", lambda s, path: path.write_bytes(s.new.content[:-100])),
    _version("one bit flipped", _flipped),
    _version("another task's file", lambda s, path: path.write_bytes(s.other.content)),
    _version("4 GB", lambda s, path: sparse(path)),
    Entry(
        "version: no permission", "version", "failure",
        _no_permission,
        is_for_users=True,
    ),
    _folder("a link", lambda s: s.victim.symlink_to(s.outside / "aside")),
    _folder("a dangling link", _dangling_folder),
    _folder("a file", lambda s: s.victim.write_text("x")),
    _folder("a FIFO", lambda s: os.mkfifo(s.victim)),
    _folder("a socket", lambda s: listen_at(s.victim)),
    _folder("empty", lambda s: s.victim.mkdir()),
    _folder("only current", _only_current, "either"),
    _history("a folder", lambda path: path.mkdir()),
    _history("a FIFO", lambda path: os.mkfifo(path)),
    _history("garbage", lambda path: path.write_bytes(b"\xff\x00{]\n" * 1000)),
    _history("4 GB", sparse),
    _history("not there", lambda path: None),
    _names("5,000 files in a task", _many_files),
    _names("a copied task", lambda s: _copied(s, "copy-of-victim")),
    _names("a task copied under the bare backbone's name", lambda s: _copied(s, "base")),
    _names("a copy whose name is not a task id", lambda s: _copied(s, "victim copy (1)")),
    _names("a backup in the task", lambda s: shutil.copy(s.pointer, s.victim / "current~")),
    _names(".tmp- folder", lambda s: (s.root / ".tmp-x").mkdir()),
    _names(".tmp- FIFO", lambda s: os.mkfifo(s.root / ".tmp-x")),
    _names(".tmp- link", lambda s: (s.root / ".tmp-x").symlink_to(s.old.path)),
    _names(".removed- file", lambda s: (s.root / ".removed-x").touch()),
    _names(".removed- link", lambda s: (s.root / ".removed-x").symlink_to(s.outside)),
    _names("lost+found and dot files", _hidden_names),
    _names("a file named as a task", lambda s: (s.root / "stray").write_text("x")),
    _names("a name that is not UTF-8", lambda s: os.mkdir(os.fsencode(s.root) + b"/\xff\xfe")),
    _store("a folder", lambda path: path.mkdir()),
    _store("a FIFO", lambda path: os.mkfifo(path)),
    _store("a dangling link", lambda path: path.symlink_to("nowhere")),
)  # fmt: skip
