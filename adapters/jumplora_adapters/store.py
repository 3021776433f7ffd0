"""The folder that published adapters live in, and every way it may change.

Changes happen under the store's lock and in an order in which a crash leaves the old or the new
state. What is served is the server's business: this is what is desired.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

from jumplora_adapters import store_files as files
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.bounds import check_publishable
from jumplora_adapters.errors import (
    FormatError,
    HasDescendants,
    OtherTask,
    StoreError,
    UnknownTask,
    UnknownVersion,
    VersionConflict,
)
from jumplora_adapters.format import validate_open
from jumplora_adapters.header import MAX_FILE_BYTES, open_adapter
from jumplora_adapters.incoming import Incoming
from jumplora_adapters.manifest import FORMAT_VERSION, check_task_id, is_digest
from jumplora_adapters.regular_file import open_regular
from jumplora_adapters.routing import check_share
from jumplora_adapters.staging import staging_folder
from jumplora_adapters.store_lock import LOCK, LOCK_SECONDS, Patience
from jumplora_adapters.store_routing import StoreRouting
from jumplora_adapters.store_steps import Published, Step, go_on, utc_now

__all__ = ["Left", "Published", "Step", "Store"]

Left = Literal["older", "nothing", "kept"]
"""What `withdraw` leaves as current: another version, no task, or the version itself."""
_COPY_BYTES = 1024 * 1024
_log = logging.getLogger(__name__)
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


class Store(StoreRouting):
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
        clock: Callable[[], datetime] = utc_now,
        on_step: Callable[[Step], None] = go_on,
        max_file_bytes: int = MAX_FILE_BYTES,
        lock_seconds: float = LOCK_SECONDS,
    ) -> None:
        super().__init__(
            root,
            clock=clock,
            on_step=on_step,
            max_file_bytes=max_file_bytes,
            lock_seconds=lock_seconds,
        )

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

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder of this store to make an adapter in; gone at the end. Raises OSError."""
        with staging_folder(self.root) as folder:
            self._on_step("staged")
            yield folder

    def publish(
        self,
        file: Path,
        backbone: Backbone,
        *,
        expect_task: str | None = None,
        if_match: str | None = None,
        only_new: bool = False,
        stage: float | None = None,
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
                return self.adopt(
                    incoming,
                    backbone,
                    expect_task=expect_task,
                    if_match=if_match,
                    only_new=only_new,
                    stage=stage,
                )

    def adopt(
        self,
        incoming: Incoming,
        backbone: Backbone,
        *,
        expect_task: str | None = None,
        if_match: str | None = None,
        only_new: bool = False,
        stage: float | None = None,
        patience: Patience | None = None,
    ) -> Published:
        """Validate a finished file for `backbone` and make it its task's current version.

        With `stage`, a share from 0 to 1, it is staged beside the current version instead, and
        VersionConflict raised where that is the same one, or there is none.

        With `expect_task` the manifest must name that task; with `if_match` that version must be
        current now (publishing what is current already always succeeds), and with `only_new` the
        task must have none, not this one either. It replaces a damaged version, and whatever else
        lies where the task's own files belong. Raises FormatError, MissingAncestor,
        VersionConflict, TaskExists, and StoreError like every change.
        """
        if stage is not None:
            check_share(stage)
        with files.store_errors():
            self._on_step("copied")
        try:
            adapter = validate_open(
                incoming.file, backbone, max_file_bytes=self.max_file_bytes, digest=incoming.digest
            )
            check_publishable(adapter.manifest, backbone.shapes(FORMAT_VERSION))
        except OSError as error:
            raise StoreError(f"{incoming.path} cannot be read: {error}") from error
        task = adapter.manifest.task
        if expect_task is not None and task != expect_task:
            raise OtherTask(task, expect_task)
        with self._changing(patience):
            if only_new:
                self._check_new(task)
            return self._commit(incoming.path, adapter, backbone, if_match, stage)

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

        Raises UnknownTask, HasDescendants while a readable version of another task needs one of
        them, and StoreError.
        """
        self._require_entry(task)
        with self._changing(patience):
            self._require_entry(task)
            self._detach(task)

    def remove_version(self, task: str, digest: str, *, patience: Patience | None = None) -> None:
        """Remove one version that is not current.

        Raises UnknownTask, UnknownVersion, VersionConflict (it is current, staged or has a name),
        HasDescendants, StoreError (also where the pointer cannot be read).
        """
        self.current(task)
        with self._changing(patience):
            current = self.current(task)
            if not is_digest(digest) or not files.is_version(self.root / task, digest):
                raise UnknownVersion(f"task {task!r} has no version {digest[:80]!r}")
            if digest == current:
                raise VersionConflict(f"{digest[:12]} is the current version of task {task!r}")
            self._drop(task, digest)

    def withdraw(self, task: str, digest: str, *, patience: Patience | None = None) -> Left:
        """Take back a version that was published or staged and turned out to be of no use.

        Where it is current, the version before becomes current; a task that has no other version
        is removed. Where another change made another version current since, that one stays. Its
        file is removed unless the lineage of another version needs it. Raises StoreError.
        """
        check_task_id(task)
        with self._changing(patience):
            try:
                stored, current = self.versions(task), self.current(task)
            except UnknownTask:  # removed since
                return "nothing"
            try:
                if current == digest:
                    if set(stored) <= {digest}:
                        self._detach(task)
                        return "nothing"
                    state = self._state(task)
                    with ExitStack() as undo:
                        before = state.version_before(task, stored)
                        self._point(task, before, "rollback", state, undo)
                else:
                    self._unstage(task, digest)
            except (HasDescendants, UnknownVersion) as error:
                _log.warning("version %s of task %s stays current: %s", digest[:12], task, error)
                return "kept"
            try:
                if digest in stored:
                    self._drop(task, digest)
            except (HasDescendants, VersionConflict) as error:
                _log.warning(
                    "withdrawn version %s of task %s is kept: %s", digest[:12], task, error
                )
            return "older"

    def sweep(self, *, patience: Patience | None = None) -> None:
        """Remove what interrupted changes left behind; never a version."""
        if not self.root.is_dir():
            return
        with self._changing(patience):
            files.remove_leftovers(self.root)
            for task in self._index.tasks():
                files.remove_leftovers(self.root / task)

    def _unstage(self, task: str, digest: str) -> None:
        state = self._state(task)
        staged = state.routing.staged
        if staged is not None and staged.version == digest:
            with ExitStack() as undo:
                routing = state.routing.staging(None)
                self._route(task, digest, "unstage", state, routing, undo, "it was withdrawn")

    def _require_entry(self, task: str) -> None:
        if not files.exists(self.root / check_task_id(task)):
            raise self._unknown(task)
