"""What a store holds: tasks, their pointers, histories and versions. Reads only, takes no lock."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

from jumplora_adapters import history as log
from jumplora_adapters import store_files as files
from jumplora_adapters.errors import (
    AdapterError,
    NoPointer,
    StoreError,
    UnknownTask,
    UnknownVersion,
)
from jumplora_adapters.format import read_manifest
from jumplora_adapters.header import MAX_FILE_BYTES
from jumplora_adapters.history import HistoryEntry
from jumplora_adapters.manifest import Manifest, check_task_id, is_digest

_PREFIX = re.compile(r"[0-9a-f]{8,64}")
_Stamp = tuple[int, int, int]


class Catalogue:
    """The adapters in one folder, which need not exist. Tasks may come and go while it is read."""

    def __init__(self, root: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self.root = root.resolve()
        self.max_file_bytes = max_file_bytes
        self._manifests: dict[str, tuple[_Stamp, Manifest]] = {}

    def survey(self) -> dict[str, str | StoreError]:
        if not self.root.is_dir():
            raise StoreError(f"the store {self.root} is not there")
        if not any(self.root.iterdir()):
            raise StoreError(f"the store {self.root} is empty and has no .lock: is it mounted?")
        found: dict[str, str | StoreError] = dict(self._pointers())
        for entry in self.root.iterdir():
            if entry.name not in found and entry.is_dir() and not entry.name.startswith("."):
                if entry.is_symlink():
                    found[entry.name] = StoreError(f"{entry} is a link; a task is a folder")
                elif not (entry / "current").is_symlink() and not (entry / "current").exists():
                    found[entry.name] = NoPointer(f"{entry} has no current")
        return found

    def files_of(self, digest: str) -> tuple[Path, ...]:
        if not is_digest(digest):
            return ()
        return tuple(
            files.version_path(self.root / task, digest)
            for task in files.task_folders(self.root)
            if files.is_version(self.root / task, digest)
        )

    def stamps_of(self, digest: str) -> tuple[_Stamp, ...]:
        return tuple(_stamp(path) for path in self.files_of(digest))

    def pointers(self) -> dict[str, str]:
        """The desired version of every task; tasks whose pointer cannot be read are left out."""
        return {t: found for t, found in self._pointers() if isinstance(found, str)}

    def damaged(self) -> dict[str, StoreError]:
        """The tasks that `pointers` leaves out, each with what is wrong."""
        return {t: found for t, found in self._pointers() if isinstance(found, StoreError)}

    def tasks(self) -> list[str]:
        """All published tasks, sorted."""
        return sorted(self.pointers())

    def current(self, task: str) -> str:
        """The desired version. Raises TaskIdInvalid, UnknownTask, StoreError."""
        digest = files.read_pointer(self.root / check_task_id(task))
        if digest is not None:
            return digest
        closest = difflib.get_close_matches(task, self.tasks(), n=3)
        hint = f"the closest are {', '.join(closest)}" if closest else "none is similar"
        raise UnknownTask(f"no task {task!r} in the store; {hint}", closest=closest)

    def history(self, task: str) -> tuple[HistoryEntry, ...]:
        """Every change of the task's pointer that took effect, newest last.

        Versions that were removed since are left out.
        """
        stored = set(self.versions(task))
        changes = log.pointer_changes(self._log(task, self.current(task)))
        return tuple(change for change in changes if change.digest in stored)

    def trail(self, task: str) -> tuple[str, ...]:
        """The versions that rollbacks would go back through; the current one is last."""
        current = self.current(task)
        stored = set(self.versions(task))
        steps = log.trail(self._log(task, current), current)
        return tuple(digest for digest in steps if digest == current or digest in stored)

    def versions(self, task: str) -> tuple[str, ...]:
        """Digests of all stored versions, sorted. Raises TaskIdInvalid, UnknownTask."""
        self.current(task)
        return tuple(files.version_digests(self.root / task))

    def path_of(self, digest: str) -> Path:
        """The file of a version of any task. Raises UnknownVersion."""
        if is_digest(digest):
            for task in files.task_folders(self.root):
                if files.is_version(self.root / task, digest):
                    return files.version_path(self.root / task, digest)
        raise UnknownVersion(f"no version {digest[:80]!r} in the store")

    def manifest(self, digest: str) -> Manifest:
        """The manifest of a version. Raises UnknownVersion, FormatError."""
        path = self.path_of(digest)
        try:
            # Only the header is read, so nothing shows that the bytes have this digest: what is
            # kept holds for this very file, not for one that repairs it under the same name. The
            # stamp is taken first, so a file replaced meanwhile is read again by the next call.
            stamp = _stamp(path)
            kept = self._manifests.get(digest)
            if kept is not None and kept[0] == stamp:
                return kept[1]
            manifest = read_manifest(path, max_file_bytes=self.max_file_bytes, follow_links=False)
        except FileNotFoundError as error:
            raise UnknownVersion(f"version {digest} was removed just now") from error
        self._manifests[digest] = stamp, manifest
        return manifest

    def resolve(self, spec: str) -> tuple[str, str]:
        """(task, digest) of "task" or "task@prefix" with at least 8 hexadecimal digits.

        Raises TaskIdInvalid, UnknownTask, UnknownVersion (none or several fit).
        """
        task, separator, prefix = spec.partition("@")
        current = self.current(task)
        if not separator:
            return task, current
        if not _PREFIX.fullmatch(prefix):
            raise UnknownVersion(
                f"version {prefix[:80]!r} given; 8 to 64 lower-case hexadecimal digits are allowed"
            )
        fitting = [digest for digest in self.versions(task) if digest.startswith(prefix)]
        if len(fitting) != 1:
            some = f"{len(fitting)} versions" if fitting else "no version"
            raise UnknownVersion(
                f"{some} of task {task!r} {'begin' if fitting else 'begins'} with {prefix}"
            )
        return task, fitting[0]

    def descendants(
        self, digest: str, *, besides: str | None = None
    ) -> tuple[tuple[str, str], ...]:
        """(task, digest) of every version whose lineage names `digest`, but for a task `besides`.

        Raises StoreError where a version cannot be read: it might name `digest`.
        """
        return tuple(
            (task, version)
            for task in files.task_folders(self.root)
            if task != besides
            for version in files.version_digests(self.root / task)
            if version != digest and digest in self._lineage(task, version)
        )

    def _lineage(self, task: str, digest: str) -> tuple[str, ...]:
        try:
            return self.manifest(digest).lineage
        except UnknownVersion:  # removed since it was listed: needs nobody
            return ()
        except (AdapterError, OSError) as error:
            raise StoreError(
                f"{task}@{digest[:12]} cannot be read, so which versions it needs is not known: "
                f"publish its file again, or delete the damaged one ({error})"
            ) from error

    def _pointers(self) -> Iterator[tuple[str, str | StoreError]]:
        for task in files.task_folders(self.root):
            try:
                digest = files.read_pointer(self.root / task)
            except StoreError as error:
                yield task, error
            else:
                if digest is not None:
                    yield task, digest

    def _log(self, task: str, current: str | None) -> tuple[HistoryEntry, ...]:
        return log.settled(log.read_log(self.root / task / files.HISTORY), current)


def _stamp(path: Path) -> _Stamp:
    """What tells one file of a name from the next: inode, time of change, size."""
    state = path.lstat()
    return state.st_ino, state.st_mtime_ns, state.st_size
