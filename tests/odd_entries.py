"""What may lie in a store that no store put there: forty entries, each in its place.

The store that they are put into has the tasks `odd` and `other`, `odd` with two versions.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from jumplora_bench.reliability.odd_entries import listen_at, sparse

Make = Callable[[Path], object]


def _fill(folder: Path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "file").write_text("content")


def _outside(path: Path) -> Path:
    """A folder out of the store that looks like a task."""
    outside = path.resolve().parent
    while outside.name != "store":
        outside = outside.parent
    outside = outside.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "current").write_text("0" * 64 + "\n")
    return outside


NOT_FILES: Mapping[str, Make] = {
    "folder": Path.mkdir,
    "full folder": _fill,
    "link to a file": lambda path: path.symlink_to(_outside(path) / "current"),
    "link to a folder": lambda path: path.symlink_to(_outside(path)),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "pipe": os.mkfifo,
    "socket": listen_at,
}
CONTENTS: Mapping[str, Make] = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"rubbish\n"),
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "4 GB": sparse,
}


def _places(root: Path, digest: str) -> dict[str, Path]:
    return {
        "current": root / "odd" / "current",
        "history": root / "odd" / "history.jsonl",
        "version": root / "odd" / f"{digest}.safetensors",
    }


ENTRIES: dict[str, tuple[str, Make]] = {
    f"{place}: {kind}": (place, make)
    for place in ("current", "history", "version")
    for kind, make in {**NOT_FILES, **CONTENTS}.items()
} | {
    f"task: {kind}": ("task", NOT_FILES[kind])
    for kind in ("link to a folder", "link to nothing", "pipe", "folder")
}


def put(root: Path, digest: str, entry: str) -> None:
    """Put an entry in its place; `digest` is the current version of `odd`."""
    place, make = ENTRIES[entry]
    if place == "task":
        shutil.rmtree(root / "odd")
        make(root / "odd")
        return
    path = _places(root, digest)[place]
    path.unlink()
    make(path)


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))
