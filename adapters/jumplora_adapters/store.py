"""The folder that published adapters live in, and every way it may change.

Changes happen under the store's lock and in an order in which a crash leaves the old or the new
state. What is served is the server's business: this is what is desired.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from jumplora_adapters import history as log
from jumplora_adapters import store_files as files
from jumplora_adapters.atomic_file import sync_folder, temporary_path, write_durably
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.bounds import check_publishable
from jumplora_adapters.catalogue import Catalogue, TaskState
from jumplora_adapters.errors import (
    FormatError,
    HasDescendants,
    MissingAncestor,
    StoreError,
    UnknownVersion,
    VersionConflict,
)
from jumplora_adapters.format import Adapter, validate_open
from jumplora_adapters.header import MAX_FILE_BYTES, open_adapter
from jumplora_adapters.history import Event, HistoryEntry
from jumplora_adapters.incoming import Incoming
from jumplora_adapters.manifest import Manifest, check_task_id, is_digest
from jumplora_adapters.regular_file import open_regular
from jumplora_adapters.store_lock import LOCK, LOCK_SECONDS, Patience, StoreLock

Outcome = Literal["created", "unchanged", "repointed"]
Step = Literal["copied", "folder", "renamed", "kept", "logged", "written", "pointed", "detached"]
"""The steps of a change, named after what has just been done."""
_COPY_BYTES = 1024 * 1024
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Published:
    """What a publish came to: a version new to the task, the current one, or an older one."""

    task: str
    digest: str
    outcome: Outcome


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _go_on(step: Step) -> None:
    del step


class Store(Catalogue):
    """A catalogue that can be changed. Threads and processes may share the folder.

    A change waits for those of others at most `lock_seconds`, or what is left of the `patience`
    it is given, then raises StoreBusy. It also raises StoreFull, StoreReadOnly and StoreError, and
    leaves nothing behind then. `on_step` is called after each step of a change, so that a test can
    stop there.
    """

    def __init__(
        self,
        root: Path,
        *,
        clock: Callable[[], datetime] = _utc_now,
        on_step: Callable[[Step], None] = _go_on,
        max_file_bytes: int = MAX_FILE_BYTES,
        lock_seconds: float = LOCK_SECONDS,
    ) -> None:
        super().__init__(root, max_file_bytes=max_file_bytes)
        self.lock_seconds = lock_seconds
        self._clock = clock
        self._on_step = on_step
        self._lock = StoreLock(self.root)

    def prepare(self) -> None:
        """Make the folder, and the mark that tells an empty store from a volume not mounted.

        In a folder that may only be read the mark is left out: it is a store while it holds tasks.
        Raises StoreError.
        """
        with files.store_errors():
            self.root.mkdir(parents=True, exist_ok=True)
            if not files.exists(self.root / LOCK):
                try:
                    os.close(open_regular(self.root / LOCK, "create"))
                except OSError as error:
                    if error.errno not in _UNWRITABLE:
                        raise

    def incoming(self) -> Incoming:
        """A file of this store to write into and to `adopt`. Raises StoreError.

        Where there is no store (`survey`) none is begun: that is what `prepare` is for.
        """
        if not files.exists(self.root / LOCK):
            self.survey()
        return Incoming(self.root, self.max_file_bytes)

    def publish(
        self,
        file: Path,
        backbone: Backbone,
        *,
        expect_task: str | None = None,
        if_match: str | None = None,
    ) -> Published:
        """`adopt` a copy of a file, in a store that is made where none is.

        OSError of `file` itself is passed on.
        """
        with open_adapter(file, follow_links=True) as source:
            size = os.fstat(source.fileno()).st_size
            if size > self.max_file_bytes:  # refused before anything is copied
                raise FormatError(
                    f"the file has {size} bytes; at most {self.max_file_bytes} are allowed",
                    code="file_size",
                )
            self.prepare()
            with self.incoming() as incoming:
                while chunk := source.read(_COPY_BYTES):
                    incoming.write(chunk)
                incoming.finish()
                return self.adopt(incoming, backbone, expect_task=expect_task, if_match=if_match)

    def adopt(
        self,
        incoming: Incoming,
        backbone: Backbone,
        *,
        expect_task: str | None = None,
        if_match: str | None = None,
        patience: Patience | None = None,
    ) -> Published:
        """Validate a finished file for `backbone` and make it its task's current version.

        With `expect_task` the manifest must name that task; with `if_match` that version must be
        current now (publishing what is current already always succeeds). It replaces a damaged
        version, and whatever else lies where the task's own files belong. Raises FormatError,
        MissingAncestor, VersionConflict, and StoreError like every change.
        """
        with files.store_errors():
            self._on_step("copied")
        try:
            adapter = validate_open(
                incoming.file, backbone, max_file_bytes=self.max_file_bytes, digest=incoming.digest
            )
            check_publishable(adapter.manifest, backbone.targets)
        except OSError as error:
            raise StoreError(f"{incoming.path} cannot be read: {error}") from error
        task = adapter.manifest.task
        if expect_task is not None and task != expect_task:
            raise FormatError(
                f"the manifest is of task {task!r}, not {expect_task!r}", code="manifest"
            )
        with self._changing(patience):
            return self._commit(incoming.path, adapter, if_match)

    def rollback(
        self, task: str, to: str | None = None, *, patience: Patience | None = None
    ) -> str:
        """Point back to `to` (a digest of the task), else to the one before the current one.

        Where the pointer is missing or damaged, the one before is what it named last. Returns the
        digest that is current then. Raises UnknownTask, UnknownVersion, and StoreError.
        """
        self.versions(task)
        with self._changing(patience):
            stored = self.versions(task)
            state = self._state(task)
            if to is None:
                to = state.version_before(task, stored)
            if not is_digest(to) or to not in stored:
                raise UnknownVersion(f"task {task!r} has no version {to[:80]!r}")
            if to != state.current:
                with ExitStack() as undo:
                    self._point(task, to, "rollback", state, undo)
            return to

    def remove(self, task: str, *, patience: Patience | None = None) -> None:
        """Remove a task with all its versions, whatever lies in its place.

        Raises UnknownTask, HasDescendants while another task's lineage needs one of them, and
        StoreError, also while another task has a version whose lineage cannot be read.
        """
        self._require_entry(task)
        with self._changing(patience):
            self._require_entry(task)
            folder = self.root / task
            digests = self._index.holdings().get(task, ())
            if digests:
                self._refuse_descendants(digests, besides=task)
            files.detach(self.root, folder)
            self._on_step("detached")
            files.remove_leftovers(self.root)

    def remove_version(self, task: str, digest: str, *, patience: Patience | None = None) -> None:
        """Remove one version that is not current.

        Raises UnknownTask, UnknownVersion, VersionConflict (it is current), HasDescendants,
        StoreError (also where the pointer, or a version's lineage, cannot be read).
        """
        self.current(task)
        with self._changing(patience), ExitStack() as undo:
            current = self.current(task)
            if not is_digest(digest) or not files.is_version(self.root / task, digest):
                raise UnknownVersion(f"task {task!r} has no version {digest[:80]!r}")
            if digest == current:
                raise VersionConflict(f"{digest[:12]} is the current version of task {task!r}")
            self._refuse_descendants((digest,))
            self._append(task, digest, "remove", self._state(task), undo)
            self._on_step("logged")
            files.version_path(self.root / task, digest).unlink()
            undo.pop_all()
            sync_folder(self.root / task)

    def sweep(self, *, patience: Patience | None = None) -> None:
        """Remove what interrupted changes left behind; never a version."""
        if not self.root.is_dir():
            return
        with self._changing(patience):
            files.remove_leftovers(self.root)
            for task in self._index.tasks():
                files.remove_leftovers(self.root / task)

    @contextmanager
    def _changing(self, patience: Patience | None) -> Iterator[None]:
        with (
            files.store_errors(),
            self._lock.held(patience or Patience(self.lock_seconds)),
        ):
            yield

    def _require_entry(self, task: str) -> None:
        if not files.exists(self.root / check_task_id(task)):
            raise self._unknown(task)

    # From here on the lock is held.

    def _commit(self, copy: Path, adapter: Adapter, if_match: str | None) -> Published:
        task, digest = adapter.manifest.task, adapter.digest
        folder = self.root / task
        state = self._state(task)
        if if_match is not None and state.current not in (if_match, digest):
            raise VersionConflict(
                f"the current version of task {task!r} is {state.current or 'none'}, not "
                f"{if_match[:80]}"
            )
        self._check_ancestors(adapter.manifest)
        is_known = any(entry.digest == digest for entry in state.log)
        is_known = is_known and files.is_version(folder, digest)
        with ExitStack() as undo:
            self._keep(copy, folder, digest, undo)
            if digest == state.current:
                undo.pop_all()
                return Published(task, digest, "unchanged")
            self._point(task, digest, "repoint" if is_known else "publish", state, undo)
        return Published(task, digest, "repointed" if is_known else "created")

    def _keep(self, copy: Path, folder: Path, digest: str, undo: ExitStack) -> None:
        files.make_way(self.root, folder, keep=stat.S_IFDIR)
        if not files.exists(folder):
            folder.mkdir()
            undo.callback(_quietly, folder.rmdir)
            sync_folder(self.root)
        self._on_step("folder")
        path = files.version_path(folder, digest)
        files.make_way(self.root, path)
        if not files.exists(path):
            undo.callback(_quietly, path.unlink)
        # Over an equal file too: that one may have been damaged since.
        copy.rename(path)
        self._on_step("renamed")
        sync_folder(folder)
        self._on_step("kept")

    def _point(
        self, task: str, digest: str, event: Event, state: TaskState, undo: ExitStack
    ) -> None:
        """Move the pointer; `undo` takes back what was done before, until that has happened."""
        self._append(task, digest, event, state, undo)
        self._on_step("logged")
        pointer = self.root / task / files.CURRENT
        temporary = temporary_path(self.root / task)
        undo.callback(_quietly, temporary.unlink)
        write_durably(temporary, f"{digest}\n".encode())
        self._on_step("written")
        files.make_way(self.root, pointer)
        temporary.replace(pointer)
        undo.pop_all()
        sync_folder(self.root / task)
        self._on_step("pointed")

    def _append(
        self, task: str, digest: str, event: Event, state: TaskState, undo: ExitStack
    ) -> None:
        path = self.root / task / files.HISTORY
        now = self._clock().astimezone(UTC).isoformat(timespec="milliseconds")
        added = [HistoryEntry(digest, now, event)]
        if state.current is not None and log.last_pointer(state.log) != state.current:
            # The pointer was set by hand.
            added.insert(0, HistoryEntry(state.current, now, "repoint"))
        files.make_way(self.root, path)
        if not files.may_be_changed(path):
            files.set_aside(self.root, path)
        keep = len(state.log)
        undo.callback(_quietly, lambda: log.cut(path, keep))
        log.append(path, added, keep=keep)
        sync_folder(self.root / task)

    def _refuse_descendants(self, digests: Sequence[str], *, besides: str | None = None) -> None:
        lineages = self.lineages(besides=besides)
        for digest in digests:
            found = [(t, v) for t, v, lineage in lineages if v != digest and digest in lineage]
            if found:
                task, version = found[0]
                raise HasDescendants(
                    f"version {digest[:12]} is an ancestor of {len(found)} others, such as "
                    f"{task}@{version[:12]}: remove those first"
                )

    def _check_ancestors(self, manifest: Manifest) -> None:
        for position, digest in enumerate(manifest.lineage, start=1):
            try:
                ancestor = self.manifest(digest)
            except (UnknownVersion, FormatError) as error:
                raise MissingAncestor(
                    f"ancestor {position} of {len(manifest.lineage)}, {digest}, is not in the "
                    "store: publish a lineage oldest first"
                ) from error
            if ancestor.backbone.fingerprint != manifest.backbone.fingerprint:
                raise MissingAncestor(f"ancestor {digest} is for another backbone")


def _quietly(act: Callable[[], object]) -> None:
    with suppress(OSError, StoreError):
        act()
