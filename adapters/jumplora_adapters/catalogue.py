"""What a store holds: tasks, their pointers, histories and versions. Reads only, takes no lock."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jumplora_adapters import history as log
from jumplora_adapters import store_files as files
from jumplora_adapters.errors import (
    AdapterError,
    FormatError,
    StoreError,
    UnknownTask,
    UnknownVersion,
)
from jumplora_adapters.header import MAX_FILE_BYTES, read_manifest
from jumplora_adapters.history import HistoryEntry
from jumplora_adapters.manifest import Manifest, check_task_id, is_digest
from jumplora_adapters.pointers import Pointers
from jumplora_adapters.regular_file import RACY_NS, Stamp, is_settled, now_ns, stamp_of
from jumplora_adapters.routing import (
    CURRENT_NAME,
    NO_ROUTING,
    ROUTING,
    STAGED_NAME,
    Routing,
    is_alias,
    read_routing,
)
from jumplora_adapters.routings import Routings
from jumplora_adapters.store_index import StoreIndex

_PREFIX = re.compile(r"[0-9a-f]{8,64}")
_MAX_KEPT = 16_384  # manifests


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task's pointer, None where it has none or a damaged one, the changes that led to it, and
    its routing, which is empty where it is damaged."""

    current: str | None
    log: tuple[HistoryEntry, ...]
    routing: Routing = NO_ROUTING

    @property
    def trail(self) -> tuple[str, ...]:
        """The versions that rollbacks go back through, the current one last."""
        current = self.current or log.last_pointer(self.log)
        return () if current is None else log.trail(self.log, current)

    def version_before(self, task: str, stored: Sequence[str]) -> str:
        """What a rollback goes back to that names no version. Raises UnknownVersion."""
        trail = [digest for digest in self.trail if digest == self.current or digest in stored]
        if self.current is not None:
            if len(trail) < 2:
                raise UnknownVersion(f"task {task!r} has no version before {self.current[:12]}")
            return trail[-2]
        if not trail and len(stored) != 1:
            raise UnknownVersion(
                f"the pointer of task {task!r} is damaged and no record shows what it named: name "
                f"one of its {len(stored)} versions"
            )
        return trail[-1] if trail else stored[0]


class Catalogue:
    """The adapters in one folder, which need not exist. Tasks may come and go while it is read.

    Whatever lies in a task's folder concerns that task alone: it is not followed, not waited for,
    and read only up to a limit. A history that cannot be read counts as an empty one.
    """

    def __init__(self, root: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self.root = root.resolve()
        self.max_file_bytes = max_file_bytes
        self._pointers = Pointers(self.root)
        self._index = StoreIndex(self.root)
        self._routings = Routings(self.root)
        self._manifests: dict[Path, tuple[Stamp, Manifest]] = {}

    def survey(self) -> dict[str, str | StoreError]:
        """By task, sorted: the desired version, or what is wrong with the task.

        NoPointer is of a folder without `current`: a copy or a publish may be under way. Raises
        StoreError where there is no store: the folder is gone, or holds neither a task nor the
        store's mark, as that of a volume that is not mounted.
        """
        return dict(sorted(self._pointers.survey().items()))

    def pointers(self) -> dict[str, str]:
        """Of `survey` the tasks whose pointer can be read."""
        return {task: found for task, found in self.survey().items() if isinstance(found, str)}

    def tasks(self) -> list[str]:
        """The tasks of `pointers`, sorted."""
        return list(self.pointers())

    def current(self, task: str) -> str:
        """The desired version. Raises TaskIdInvalid, UnknownTask, StoreError."""
        digest = files.read_pointer(self.root / check_task_id(task))
        if digest is None:
            raise self._unknown(task)
        return digest

    def routing(self, task: str) -> Routing:
        """What may be asked beside the current version; empty for most tasks.

        Raises TaskIdInvalid, StoreError (it cannot be read).
        """
        folder = self.root / check_task_id(task)
        if not files.is_folder(folder):
            return NO_ROUTING
        routing = read_routing(folder)
        if routing.staged is None:
            return routing
        try:
            current = files.read_pointer(folder)
        except StoreError:
            return routing
        return _settled(routing, current)

    def routings(self) -> dict[str, Routing | StoreError]:
        """By task, of those that have one: its routing as its file says it, or what is wrong with
        that. A staged version that is current counts as none, which is not looked at here."""
        return self._routings.survey(self._index.tasks())

    def history(self, task: str) -> tuple[HistoryEntry, ...]:
        """Every change of the task's pointer that took effect, newest last.

        Versions that were removed since are left out. Raises TaskIdInvalid, UnknownTask.
        """
        stored = set(self.versions(task))
        changes = log.pointer_changes(self._state(task).log)
        return tuple(change for change in changes if change.digest in stored)

    def changes(self, task: str) -> tuple[HistoryEntry, ...]:
        """Every change of the task that took effect, newest last: the pointer's, also to versions
        that were removed since, those removals, and those of the routing. Raises TaskIdInvalid."""
        return self._state(check_task_id(task)).log

    def changes_stamp(self, task: str) -> tuple[Stamp | None, ...] | None:
        """Of the files that `changes` reads: while it is equal, they are as they were. None where
        one was changed so lately that this cannot be said."""
        began, stamps = now_ns(), list[Stamp | None]()
        for name in (files.HISTORY, files.CURRENT, ROUTING):
            try:
                state = (self.root / check_task_id(task) / name).lstat()
            except (FileNotFoundError, NotADirectoryError):
                stamps.append(None)
                continue
            if not is_settled(state, began):
                return None
            stamps.append(stamp_of(state))
        return tuple(stamps)

    def trail(self, task: str) -> tuple[str, ...]:
        """The versions that rollbacks would go back through; the current one is last.

        Raises TaskIdInvalid, UnknownTask, StoreError.
        """
        current = self.current(task)
        stored = set(self.versions(task))
        return tuple(d for d in self._state(task).trail if d == current or d in stored)

    def versions(self, task: str) -> tuple[str, ...]:
        """Digests of all stored versions, sorted, whatever the task's pointer holds.

        Raises TaskIdInvalid, UnknownTask, StoreError (the task is not a readable folder).
        """
        folder = self.root / check_task_id(task)
        try:
            if files.is_folder(folder):
                digests = tuple(files.version_digests(folder))
                if digests or files.exists(folder / files.CURRENT):
                    return digests
            elif files.exists(folder):
                raise StoreError(f"{folder} is not a folder; a task must be a folder")
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StoreError(f"{folder} cannot be read: {error.strerror}") from error
        raise self._unknown(task)

    def files_of(self, digest: str) -> tuple[Path, ...]:
        """The files of a version, which several tasks may hold, in the order of their tasks."""
        return tuple(path for path, _ in self._files_of(digest))

    def path_of(self, digest: str) -> Path:
        """The first file of a version. Raises UnknownVersion."""
        found = self._files_of(digest)
        if not found:
            raise UnknownVersion(f"no version {digest[:80]!r} in the store")
        return found[0][0]

    def stamps_of(self, digest: str) -> tuple[Stamp, ...]:
        """The stamp of each of `files_of`: others once one was changed, added or removed."""
        return tuple(stamp for _, stamp in self._files_of(digest))

    def stamps_of_all(self, digests: Iterable[str]) -> dict[str, tuple[Stamp, ...]]:
        """`stamps_of` each, for one look at the store."""
        found = self._index.files_of_all(digests)
        return {digest: tuple(stamp for _, stamp in files) for digest, files in found.items()}

    def manifest(self, digest: str) -> Manifest:
        """The manifest of a version: of its first file that has one.

        Raises UnknownVersion, FormatError.
        """
        fault: FormatError | None = None
        for path, stamp in self._files_of(digest):
            try:
                return self._manifest_in(path, stamp)
            except FileNotFoundError:
                continue
            except FormatError as error:
                fault = fault or error
        raise fault or UnknownVersion(f"no version {digest[:80]!r} in the store")

    def resolve(self, spec: str) -> tuple[str, str]:
        """(task, digest) of "task", of "task@prefix" with at least 8 hexadecimal digits, or of
        "task@name", where a name is an alias, `staged` or `current`.

        Raises TaskIdInvalid, UnknownTask, UnknownVersion (none or several fit), and StoreError
        where the pointer is needed and cannot be read.
        """
        task, separator, prefix = spec.partition("@")
        if not separator or prefix == CURRENT_NAME:
            return task, self.current(task)
        stored = self.versions(task)
        if prefix == STAGED_NAME or is_alias(prefix):
            return task, self._named(task, prefix)
        if not _PREFIX.fullmatch(prefix):
            raise UnknownVersion(
                f"version {prefix[:80]!r} given; 8 to 64 lower-case hexadecimal digits are allowed"
            )
        fitting = [digest for digest in stored if digest.startswith(prefix)]
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

        As in `lineages`, a version whose header cannot be read does not count.
        """
        return tuple(
            (task, version)
            for task, version, lineage in self.lineages(besides=besides)
            if version != digest and digest in lineage
        )

    def lineages(
        self, *, besides: str | None = None
    ) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
        """(task, digest, lineage) of every version, but for a task `besides`.

        A version whose header cannot be read is left out: it cannot be served either, and must not
        hold up the changes of other tasks. Where an ancestor of it is removed and its own file is
        mended later, its load fails for the missing ancestor until that is published again.
        """
        found: list[tuple[str, str, tuple[str, ...]]] = []
        for task, digests in self._index.holdings().items():
            for digest in digests if task != besides else ():
                with suppress(AdapterError, OSError):  # or removed since it was listed
                    found.append((task, digest, self.manifest(digest).lineage))
        return tuple(found)

    def _named(self, task: str, name: str) -> str:
        """The version that a task's routing calls that."""
        routing = self.routing(task)
        if name == STAGED_NAME and routing.staged is not None:
            return routing.staged.version
        if name in routing.aliases:
            return routing.aliases[name]
        if name == STAGED_NAME:
            raise UnknownVersion(f"task {task!r} has no staged version")
        names = (
            f"its aliases are {', '.join(routing.aliases)}"
            if routing.aliases
            else "it has no alias"
        )
        raise UnknownVersion(f"no version of task {task!r} is called {name!r}; {names}")

    def _files_of(self, digest: str) -> tuple[tuple[Path, Stamp], ...]:
        return self._index.files_of(digest) if is_digest(digest) else ()

    def _manifest_in(self, path: Path, stamp: Stamp) -> Manifest:
        # Only the header is read, so nothing shows that the bytes have this digest: what is kept
        # holds for this very file, not for one that repairs it under the same name. The stamp was
        # taken first, so a file replaced after that is read again by the next call.
        kept = self._manifests.get(path)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        began = now_ns()
        manifest = read_manifest(path, max_file_bytes=self.max_file_bytes, follow_links=False)
        if began - max(stamp[1], stamp[2]) > RACY_NS:
            if len(self._manifests) >= _MAX_KEPT:
                self._manifests.clear()
            self._manifests[path] = stamp, manifest
        return manifest

    def _state(self, task: str) -> TaskState:
        folder = self.root / task
        try:
            entries = log.read_log(folder / files.HISTORY)
        except StoreError:
            entries = ()
        try:
            routing = read_routing(folder)
        except StoreError:
            routing = NO_ROUTING
        try:
            current = files.read_pointer(folder)
        except StoreError:  # what it named is what the log says last
            return TaskState(None, entries, routing)
        routing = _settled(routing, current)
        return TaskState(current, log.settled(entries, current, routing), routing)

    def _unknown(self, task: str) -> UnknownTask | StoreError:
        """The error of a task that is not there; of the store, where that is not there."""
        tasks = self._index.tasks()
        if not tasks:
            try:
                self.survey()
            except StoreError as error:
                return error
        closest = difflib.get_close_matches(task, tasks, n=3)
        hint = f"closest: {', '.join(closest)}" if closest else "none is similar"
        return UnknownTask(f"no task {task!r} in the store; {hint}", closest=closest)


def _settled(routing: Routing, current: str | None) -> Routing:
    """Without a staged version that is current: it was promoted, or published over."""
    staged = routing.staged
    return routing.staging(None) if staged is not None and staged.version == current else routing
