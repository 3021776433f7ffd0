"""One task's history: which versions its pointer named, as a log that is only appended to.

The log is written before the pointer and the routing, so its last line may tell of a change that
never happened; those two are the truth. A torn last line is ignored, and cut off by the next
change.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from jumplora_adapters.errors import StoreError
from jumplora_adapters.manifest import is_digest
from jumplora_adapters.regular_file import open_regular
from jumplora_adapters.routing import Routing

MAX_LOG_BYTES = 4 * 1024 * 1024  # some 30,000 changes; of a longer log the end is read
Event = Literal[
    "publish", "repoint", "promote", "rollback", "remove", "stage", "unstage", "alias", "unalias"
]
"""`publish`, `repoint` and `promote` move the pointer on, `rollback` moves it back. `remove`
deletes a version; the others change what is asked beside the current one."""
POINTER_EVENTS: frozenset[Event] = frozenset({"publish", "repoint", "promote", "rollback"})
MAX_NOTE_CHARS = 500


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change: the version that it is about, and when (ISO 8601, UTC).

    `note` says why, or how a version is called; most changes have none.
    """

    digest: str
    published_at: str
    event: Event
    note: str = ""

    def line(self) -> bytes:
        """The entry as one line of the log."""
        record = {"at": self.published_at, "digest": self.digest, "event": self.event}
        if self.note:
            record["note"] = self.note[:MAX_NOTE_CHARS]
        return json.dumps(record, sort_keys=True).encode() + b"\n"


def read_log(path: Path) -> tuple[HistoryEntry, ...]:
    """All whole entries, oldest first; none for a file that is not there. Raises StoreError."""
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return tuple(entry for entry, _ in _entries(descriptor))
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def last_pointer(entries: Sequence[HistoryEntry]) -> str | None:
    """The version that the pointer named after the last change, as the log has it."""
    moves = (entry.digest for entry in reversed(entries) if entry.event in POINTER_EVENTS)
    return next(moves, None)


def settled(
    entries: Sequence[HistoryEntry], current: str | None, routing: Routing
) -> tuple[HistoryEntry, ...]:
    """The entries without a last change that never reached the pointer or the routing."""
    if entries and not _is_in(entries[-1], routing):
        return tuple(entries[:-1])
    if not entries or last_pointer(entries) == current:
        return tuple(entries)
    # An interrupted change wrote its line last, and the pointer is still where it was before.
    earlier = tuple(entries[:-1])
    return earlier if last_pointer(earlier) == current else tuple(entries)


def _is_in(entry: HistoryEntry, routing: Routing) -> bool:
    """Whether the routing is as a change left it; true of those that do not change it."""
    match entry.event:
        case "stage" | "unstage":
            staged = None if routing.staged is None else routing.staged.version
            return (staged == entry.digest) == (entry.event == "stage")
        case "alias" | "unalias":
            is_named = routing.aliases.get(entry.note) == entry.digest
            return is_named == (entry.event == "alias")
    return True


def pointer_changes(entries: Sequence[HistoryEntry]) -> tuple[HistoryEntry, ...]:
    """The changes of the pointer, without those to versions that were removed later."""
    changes: list[HistoryEntry] = []
    for entry in entries:
        if entry.event == "remove":
            changes = [change for change in changes if change.digest != entry.digest]
        elif entry.event in POINTER_EVENTS:
            changes.append(entry)
    return tuple(changes)


def trail(entries: Sequence[HistoryEntry], current: str) -> tuple[str, ...]:
    """The versions one would meet going back from `current`, which is last.

    A rollback takes versions off the trail, so that the next one goes further back.
    """
    steps: list[str] = []
    for entry in entries:
        if entry.event == "remove":
            steps = [digest for digest in steps if digest != entry.digest]
        elif entry.event == "rollback" and entry.digest in steps:
            last = len(steps) - 1 - steps[::-1].index(entry.digest)
            steps = steps[: last + 1]
        elif entry.event in POINTER_EVENTS:
            steps.append(entry.digest)
    if current in steps:
        steps = steps[: len(steps) - steps[::-1].index(current)]
    else:
        steps.append(current)
    return tuple(
        digest for index, digest in enumerate(steps) if index == 0 or digest != steps[index - 1]
    )


def append(path: Path, entries: Sequence[HistoryEntry], keep: int) -> None:
    """Cut the log after its first `keep` entries, add `entries`, and make that durable.

    When that fails the log is left cut. Raises OSError.
    """
    with os.fdopen(open_regular(path, "create"), "r+b") as file:
        end = _end(file.fileno(), keep)
        try:
            file.truncate(end)
            file.seek(end)
            file.write(b"".join(entry.line() for entry in entries))
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                os.ftruncate(file.fileno(), end)
            raise


def cut(path: Path, keep: int) -> None:
    """Take back an `append`: only the first `keep` entries stay; a log of none is removed."""
    if not keep:
        path.unlink()
        return
    descriptor = open_regular(path, "change")
    try:
        os.ftruncate(descriptor, _end(descriptor, keep))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _end(descriptor: int, keep: int) -> int:
    return _entries(descriptor)[keep - 1][1] if keep else 0


def _entries(descriptor: int) -> list[tuple[HistoryEntry, int]]:
    # Each entry with the offset of its end. A line that cannot be read is passed over, and so is
    # the first one where the reading begins in the middle of a log.
    entries: list[tuple[HistoryEntry, int]] = []
    size = os.fstat(descriptor).st_size
    end = max(0, size - MAX_LOG_BYTES)
    content = b""
    while len(content) < MAX_LOG_BYTES:
        piece = os.pread(descriptor, MAX_LOG_BYTES - len(content), end + len(content))
        if not piece:
            break
        content += piece
    for line in content.splitlines(keepends=True):
        end += len(line)
        if entry := _parse(line):
            entries.append((entry, end))
    return entries


def _parse(line: bytes) -> HistoryEntry | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.keys() - {"note"} != {"at", "digest", "event"}:
        return None
    at, digest, event = record["at"], record["digest"], record["event"]
    note = record.get("note", "")
    if not isinstance(at, str) or not isinstance(digest, str) or not is_digest(digest):
        return None
    if not isinstance(note, str) or event not in get_args(Event):
        return None
    return HistoryEntry(digest, at, event, note)
