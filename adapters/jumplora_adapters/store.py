"""The folder that published adapters live in, and every way it may change.

Changes happen under the store's lock and in an order in which a crash leaves the old or the new
state. What is served is the server's business: this is what is desired.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from jumplora_adapters import history as log
from jumplora_adapters import store_files as files
from jumplora_adapters.atomic_file import replace_file, sync_folder
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.bounds import check_publishable
from jumplora_adapters.catalogue import Catalogue
from jumplora_adapters.errors import (
    FormatError,
    HasDescendants,
    MissingAncestor,
    StoreError,
    UnknownVersion,
    VersionConflict,
)
from jumplora_adapters.format import Adapter, read_adapter, read_manifest
from jumplora_adapters.header import MAX_FILE_BYTES
from jumplora_adapters.history import Event, HistoryEntry
from jumplora_adapters.manifest import Manifest, is_digest

Outcome = Literal["created", "unchanged", "repointed"]
Step = Literal["copied", "folder", "renamed", "kept", "logged", "written", "pointed", "detached"]
"""The steps of a change, named after what has just been done."""


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

    `on_step` is called after each step of a change, so that a test can stop there.
    """

    def __init__(
        self,
        root: Path,
        *,
        clock: Callable[[], datetime] = _utc_now,
        on_step: Callable[[Step], None] = _go_on,
        max_file_bytes: int = MAX_FILE_BYTES,
    ) -> None:
        super().__init__(root, max_file_bytes=max_file_bytes)
        self._clock = clock
        self._on_step = on_step

    def publish(
        self,
        file: Path,
        backbone: Backbone,
        *,
        expect_task: str | None = None,
        if_match: str | None = None,
    ) -> Published:
        """Validate a file for `backbone`, keep a copy, and make it its task's current version.

        With `expect_task` the manifest must name that task; with `if_match` that version must be
        current now (publishing what is current already always succeeds). Raises FormatError,
        MissingAncestor, VersionConflict, StoreError; then nothing is left behind. OSError of
        `file` itself is passed on.
        """
        read_manifest(file, max_file_bytes=self.max_file_bytes)  # refuse before anything is copied
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with files.copied(file, self.root, max_file_bytes=self.max_file_bytes) as copy:
                self._on_step("copied")
                adapter = read_adapter(copy, backbone, max_file_bytes=self.max_file_bytes)
                check_publishable(adapter.manifest, backbone.targets)
                task = adapter.manifest.task
                if expect_task is not None and task != expect_task:
                    raise FormatError(
                        f"the manifest is of task {task!r}, not {expect_task!r}", code="manifest"
                    )
                with files.locked(self.root):
                    return self._commit(copy, adapter, if_match)
        except OSError as error:
            raise StoreError(f"the store cannot be written: {error}") from error

    def rollback(self, task: str, to: str | None = None) -> str:
        """Point back to `to` (a digest of the task), else to the one before the current one.

        Returns the digest that is current then. Raises UnknownTask, UnknownVersion.
        """
        self.current(task)
        with files.locked(self.root):
            current = self.current(task)
            if to is None:
                trail = self.trail(task)
                if len(trail) < 2:
                    raise UnknownVersion(f"task {task!r} has no version before {current[:12]}")
                to = trail[-2]
            self._require_version(task, to)
            if to != current:
                self._point(task, to, "rollback", current)
            return to

    def remove(self, task: str) -> None:
        """Remove a task with all its versions.

        Raises UnknownTask, HasDescendants while another task's lineage needs one of them, and
        StoreError while another task has a version whose lineage cannot be read.
        """
        self.current(task)
        with files.locked(self.root):
            self.current(task)
            digests = files.version_digests(self.root / task)
            for digest in digests:
                _refuse_descendants(digest, self.descendants(digest, besides=task))
            detached = self.root / f"{files.REMOVED_PREFIX}{secrets.token_hex(8)}"
            (self.root / task).rename(detached)
            sync_folder(self.root)
            self._on_step("detached")
            files.remove_leftovers(self.root)
        for digest in digests:
            self._manifests.pop(digest, None)

    def remove_version(self, task: str, digest: str) -> None:
        """Remove one version that is not current.

        Raises UnknownTask, UnknownVersion, VersionConflict (it is current), HasDescendants,
        StoreError (a version's lineage cannot be read).
        """
        self.current(task)
        with files.locked(self.root):
            current = self.current(task)
            self._require_version(task, digest)
            if digest == current:
                raise VersionConflict(f"{digest[:12]} is the current version of task {task!r}")
            _refuse_descendants(digest, self.descendants(digest))
            self._append(task, digest, "remove", current)
            self._on_step("logged")
            files.version_path(self.root / task, digest).unlink()
            sync_folder(self.root / task)
        self._manifests.pop(digest, None)

    def sweep(self) -> None:
        """Remove what interrupted changes left behind; never a version."""
        if not self.root.is_dir():
            return
        with files.locked(self.root):
            files.remove_leftovers(self.root)
            for task in files.task_folders(self.root):
                files.remove_leftovers(self.root / task)

    # From here on the lock is held.

    def _commit(self, copy: Path, adapter: Adapter, if_match: str | None) -> Published:
        task, digest = adapter.manifest.task, adapter.digest
        folder = self.root / task
        current = files.read_pointer(folder)
        if if_match is not None and current not in (if_match, digest):
            raise VersionConflict(
                f"the current version of task {task!r} is {current or 'none'}, not {if_match[:80]}"
            )
        self._check_ancestors(adapter.manifest)
        is_known = any(entry.digest == digest for entry in self._log(task, current))
        is_known = is_known and files.is_version(folder, digest)
        self._keep(copy, folder, digest)
        if digest == current:
            return Published(task, digest, "unchanged")
        self._point(task, digest, "repoint" if is_known else "publish", current)
        return Published(task, digest, "repointed" if is_known else "created")

    def _keep(self, copy: Path, folder: Path, digest: str) -> None:
        if not folder.exists():
            folder.mkdir()
            sync_folder(self.root)
        self._on_step("folder")
        # Over an equal file too: that one may have been damaged since.
        copy.rename(files.version_path(folder, digest))
        self._manifests.pop(digest, None)  # a damaged one's may be kept, and inodes come again
        self._on_step("renamed")
        sync_folder(folder)
        self._on_step("kept")

    def _point(self, task: str, digest: str, event: Event, current: str | None) -> None:
        self._append(task, digest, event, current)
        self._on_step("logged")
        replace_file(
            self.root / task / files.CURRENT,
            f"{digest}\n".encode(),
            before_rename=lambda: self._on_step("written"),
        )
        self._on_step("pointed")

    def _append(self, task: str, digest: str, event: Event, current: str | None) -> None:
        entries = self._log(task, current)
        now = self._clock().astimezone(UTC).isoformat(timespec="milliseconds")
        added = [HistoryEntry(digest, now, event)]
        if current is not None and log.last_pointer(entries) != current:
            added.insert(0, HistoryEntry(current, now, "repoint"))  # the pointer was set by hand
        log.append(self.root / task / files.HISTORY, added, keep=len(entries))
        sync_folder(self.root / task)

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

    def _require_version(self, task: str, digest: str) -> None:
        if not is_digest(digest) or not files.is_version(self.root / task, digest):
            raise UnknownVersion(f"task {task!r} has no version {digest[:80]!r}")


def _refuse_descendants(digest: str, descendants: Sequence[tuple[str, str]]) -> None:
    if descendants:
        task, version = descendants[0]
        raise HasDescendants(
            f"version {digest[:12]} is an ancestor of {len(descendants)} others, such as "
            f"{task}@{version[:12]}: remove those first"
        )
