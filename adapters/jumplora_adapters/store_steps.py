"""The steps that changes of a store are made of. The caller holds the store's lock.

Each leaves what was there when it fails.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from jumplora_adapters import history as log
from jumplora_adapters import store_files as files
from jumplora_adapters.atomic_file import replace_file, sync_folder, temporary_path, write_durably
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.catalogue import Catalogue, TaskState
from jumplora_adapters.errors import (
    FormatError,
    HasDescendants,
    MissingAncestor,
    StoreError,
    TaskExists,
    UnknownVersion,
    VersionConflict,
)
from jumplora_adapters.format import Adapter
from jumplora_adapters.history import Event, HistoryEntry
from jumplora_adapters.manifest import Manifest
from jumplora_adapters.routing import ROUTING, Routing, Staged, read_routing, routing_text
from jumplora_adapters.store_lock import Patience, StoreLock

Outcome = Literal["created", "unchanged", "repointed", "staged"]
Step = Literal[
    "staged", "copied", "folder", "renamed", "kept", "logged", "written", "moved", "pointed",
    "routed", "detached",
]  # fmt: skip
"""The steps of a change, named after what has just been done."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a publish came to: a version new to the task, the current one, an older one, or one that
    was staged beside the current one."""

    task: str
    digest: str
    outcome: Outcome


def utc_now() -> datetime:
    """The time of a change."""
    return datetime.now(UTC)


def go_on(step: Step) -> None:
    """Nothing stops a change."""
    del step


class StoreSteps(Catalogue):
    """A catalogue with what its changes share. `on_step` is called after each step.

    A change waits for those of others at most `lock_seconds`, or what is left of its patience.
    """

    def __init__(
        self,
        root: Path,
        *,
        clock: Callable[[], datetime],
        on_step: Callable[[Step], None],
        max_file_bytes: int,
        lock_seconds: float,
    ) -> None:
        super().__init__(root, max_file_bytes=max_file_bytes)
        self._clock = clock
        self._on_step = on_step
        self.lock_seconds = lock_seconds
        self._lock = StoreLock(self.root, self.survey)

    @contextmanager
    def _changing(self, patience: Patience | None) -> Iterator[None]:
        with (
            files.store_errors(),
            self._lock.held(patience or Patience(self.lock_seconds)),
        ):
            yield

    def _commit(
        self,
        copy: Path,
        adapter: Adapter,
        backbone: Backbone,
        if_match: str | None,
        stage: float | None,
    ) -> Published:
        task, digest = adapter.manifest.task, adapter.digest
        folder = self.root / task
        state = self._state(task)
        _check_match(task, digest, state, if_match)
        if stage is not None:
            _check_stageable(task, digest, state)
        self._check_ancestors(adapter.manifest, backbone)
        is_known = any(entry.digest == digest for entry in state.log)
        is_known = is_known and files.is_version(folder, digest)
        with ExitStack() as undo:
            self._keep(copy, folder, digest, undo)
            if stage is not None:
                self._stage(task, Staged(digest, float(stage), ""), state, undo)
                return Published(task, digest, "staged")
            if digest == state.current:
                undo.pop_all()
                return Published(task, digest, "unchanged")
            self._point(task, digest, "repoint" if is_known else "publish", state, undo)
        return Published(task, digest, "repointed" if is_known else "created")

    def _check_new(self, task: str) -> None:
        folder, current = self.root / task, self._state(task).current
        if current is not None or (files.is_folder(folder) and files.version_digests(folder)):
            version = f"its current version is {current}" if current else "its pointer is damaged"
            raise TaskExists(
                f"task {task!r} exists already, {version}: publish under another task id, or "
                "replace that version on purpose"
            )

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
        self._forget_promoted(task, state)
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
        self._on_step("moved")
        staged = state.routing.staged
        if staged is not None and staged.version == digest:
            # It counts as none since the pointer names it, so this may as well fail.
            _quietly(lambda: self._write_routing(task, state.routing.staging(None)))
        self._on_step("pointed")

    def _forget_promoted(self, task: str, state: TaskState) -> None:
        """Take a version from the routing that was promoted, where that did not come so far.

        It counts as none only while the pointer names it, which is about to change.
        """
        try:
            staged = read_routing(self.root / task).staged
        except StoreError:  # it stages nothing
            return
        if staged is not None and staged.version == state.current:
            self._write_routing(task, state.routing)

    def _stage(
        self,
        task: str,
        wish: Staged,
        state: TaskState,
        undo: ExitStack,
    ) -> Staged:
        """Stage a version; `undo` takes back what was done before, until that has happened."""
        _check_stageable(task, wish.version, state)
        before = state.routing.staged
        if before is not None and replace(wish, at=before.at) == before:
            undo.pop_all()
            return before
        staged = replace(wish, at=self._now())
        routing, note = state.routing.staging(staged), f"share {wish.share:g}"
        if wish.promote_after is not None:
            note += f", promoted after {wish.promote_after:g} s without a fault"
        self._route(task, wish.version, "stage", state, routing, undo, note)
        return staged

    def _route(
        self,
        task: str,
        digest: str,
        event: Event,
        state: TaskState,
        routing: Routing,
        undo: ExitStack,
        note: str = "",
    ) -> None:
        """Change the routing, which the history tells as `event` of a version; `undo` as above."""
        self._append(task, digest, event, state, undo, note)
        self._on_step("logged")
        self._write_routing(task, routing)
        undo.pop_all()
        self._on_step("routed")

    def _write_routing(self, task: str, routing: Routing) -> None:
        path = self.root / task / ROUTING
        files.make_way(self.root, path)
        replace_file(path, routing_text(routing))

    def _now(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="milliseconds")

    def _append(
        self,
        task: str,
        digest: str,
        event: Event,
        state: TaskState,
        undo: ExitStack,
        note: str = "",
    ) -> None:
        path = self.root / task / files.HISTORY
        now = self._now()
        added = [HistoryEntry(digest, now, event, note)]
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

    def _detach(self, task: str) -> None:
        digests = self._index.holdings().get(task, ())
        if digests:
            self._refuse_descendants(digests, besides=task)
        files.detach(self.root, self.root / task)
        self._on_step("detached")
        files.remove_leftovers(self.root)

    def _drop(self, task: str, digest: str) -> None:
        """Delete the file of a version that is neither current nor has a name."""
        self._refuse_descendants((digest,))
        state = self._state(task)
        if names := state.routing.names_of(digest):
            raise VersionConflict(
                f"{digest[:12]} is {task}@{names[0]}: take that away from it before it is removed"
            )
        with ExitStack() as undo:
            self._append(task, digest, "remove", state, undo)
            self._on_step("logged")
            files.version_path(self.root / task, digest).unlink()
            undo.pop_all()
        sync_folder(self.root / task)

    def _refuse_descendants(self, digests: Sequence[str], *, besides: str | None = None) -> None:
        lineages = self.lineages(besides=besides)
        for digest in digests:
            found = [(t, v) for t, v, lineage in lineages if v != digest and digest in lineage]
            if found:
                raise HasDescendants(digest, found)

    def _check_ancestors(self, manifest: Manifest, backbone: Backbone) -> None:
        for position, digest in enumerate(manifest.lineage, start=1):
            try:
                ancestor = self.manifest(digest)
            except (UnknownVersion, FormatError) as error:
                raise MissingAncestor(
                    f"ancestor {position} of {len(manifest.lineage)}, {digest}, is not in the "
                    "store: publish a lineage oldest first"
                ) from error
            if not backbone.knows(ancestor.backbone.fingerprint):
                raise MissingAncestor(f"ancestor {digest} is for another backbone")


def _check_stageable(task: str, digest: str, state: TaskState) -> None:
    if state.current is None:
        raise VersionConflict(
            f"task {task!r} has no current version beside which one could be staged: publish it "
            "without a share first"
        )
    if digest == state.current:
        raise VersionConflict(f"{digest[:12]} is the current version of task {task!r} already")


def _check_match(task: str, digest: str, state: TaskState, if_match: str | None) -> None:
    if if_match is not None and state.current not in (if_match, digest):
        raise VersionConflict(
            f"the current version of task {task!r} is {state.current or 'none'}, not "
            f"{if_match[:80]}"
        )


def _quietly(act: Callable[[], object]) -> None:
    with suppress(OSError, StoreError):
        act()
