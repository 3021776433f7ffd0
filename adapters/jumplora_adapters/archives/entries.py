"""What an archive of a PEFT folder may hold, and which of it a conversion reads.

Only names and sizes are looked at here; how a zip or a tar says them is their readers' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from jumplora_adapters.errors import ArchiveError, WrongFile
from jumplora_adapters.file_kind import PICKLE_ADVICE, advice_on_files
from jumplora_adapters.peft_files import CONFIG_FILE, PICKLED_FILE, WEIGHTS_FILE
from jumplora_adapters.printable import printable, shown

MAX_ENTRIES = 1000
MAX_NAME_BYTES = 1024
MAX_PART_BYTES = 200  # of a name between two slashes; file systems take 255
MAX_SHOWN = 80
MAX_FOLDERS = 3  # that a message names
PIECE_BYTES = 1024 * 1024  # of a file, at a time
MAC_FOLDER = "__MACOSX"  # macOS puts what its Finder knows of each file there


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder of an archive, by its place in the list and its cleaned name."""

    number: int
    name: str  # "my-lora/adapter_config.json"; "" is the archive's root
    size: int  # as the archive says; what comes out is counted too
    is_folder: bool


class Archive(Protocol):
    """An open zip or tar."""

    @property
    def entries(self) -> Sequence[Entry]:
        """All of it, links and devices refused."""

    def read(self, entry: Entry) -> Iterator[bytes]:
        """A file's bytes, in pieces. Raises ArchiveError where they are not as promised."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The two files of the one PEFT folder, and the folder's name; "" where it has none."""

    folder: str
    config: Entry
    weights: Entry


def clean_name(name: str) -> str:
    """A name without "./" in front and "/" behind.

    Raises ArchiveError for one that leads out of the archive, or is not fit to print.
    """
    if len(name.encode("utf-8", errors="replace")) > MAX_NAME_BYTES:
        raise ArchiveError(f"{_said(name)}: a name has at most {MAX_NAME_BYTES} bytes")
    if printable(name) != name:
        raise ArchiveError(f"{_said(name)}: a name must have printable characters only")
    if "\\" in name:
        raise ArchiveError(f"{_said(name)}: the parts of a name are joined by '/', not '\\'")
    if name.startswith("/"):
        raise ArchiveError(f"{_said(name)} is an absolute path: names must begin at the archive")
    parts = name.rstrip("/").split("/")
    while parts and parts[0] == ".":
        parts.pop(0)
    for part in parts:
        if part in ("", ".", ".."):
            raise ArchiveError(f"{_said(name)}: a name may not have the part {part!r}")
        if len(part.encode()) > MAX_PART_BYTES:
            raise ArchiveError(f"{_said(name)}: a part has at most {MAX_PART_BYTES} bytes")
    return "/".join(parts)


def check_entries(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The entries, read up to the limit. Raises ArchiveError for too many, or a name twice."""
    kept: list[Entry] = []
    seen: dict[str, Entry] = {}
    for entry in entries:
        if len(kept) == MAX_ENTRIES:
            raise ArchiveError(f"it has more than {MAX_ENTRIES} entries; more are not allowed")
        other = seen.setdefault(entry.name, entry)
        if other is not entry and not (other.is_folder and entry.is_folder):
            raise ArchiveError(f"{_said(entry.name)} is in it twice")
        kept.append(entry)
    return tuple(kept)


def choose(entries: Sequence[Entry]) -> Chosen:
    """The files of the PEFT folder: at the root, or in the one folder there that has them.

    Raises ArchiveError, and WrongFile where the archive holds something else.
    """
    files = {entry.name: entry for entry in entries if not entry.is_folder}
    configs = [name for name in files if name.rpartition("/")[2] == CONFIG_FILE]
    folders = sorted(
        name.rpartition("/")[0]
        for name in configs
        if name.count("/") < 2 and not name.startswith(f"{MAC_FOLDER}/")
    )
    if not folders:
        if configs:
            found = sorted({name.rpartition("/")[0] for name in configs})
            raise ArchiveError(
                f"no {CONFIG_FILE} at the root of the archive or in one folder there; there is one "
                f"in {', '.join(map(_said, found[:MAX_FOLDERS]))}: pack one of these folders"
            )
        raise WrongFile(f"no {CONFIG_FILE} in the archive{advice_on_files(files)}")
    if folders[0] != "" and len(folders) > 1:
        raise ArchiveError(
            f"{_said(folders[0])} and {_said(folders[1])} both have a {CONFIG_FILE}: send each "
            "folder in an archive of its own"
        )
    folder = folders[0]
    front = f"{folder}/" if folder else ""
    weights = files.get(front + WEIGHTS_FILE)
    if weights is None:
        if front + PICKLED_FILE in files:
            raise WrongFile(
                f"{PICKLED_FILE} is in the archive and no {WEIGHTS_FILE}{PICKLE_ADVICE}"
            )
        raise ArchiveError(f"no {WEIGHTS_FILE} beside {_said(front + CONFIG_FILE)}")
    return Chosen(folder, files[front + CONFIG_FILE], weights)


def _said(name: str) -> str:
    return shown(repr(name), MAX_SHOWN)
