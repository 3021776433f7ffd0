"""Changes of what is asked beside a task's current version: staged versions and names."""

from __future__ import annotations

from contextlib import ExitStack

from jumplora_adapters import store_files as files
from jumplora_adapters.catalogue import TaskState
from jumplora_adapters.errors import UnknownVersion, VersionConflict
from jumplora_adapters.history import Event
from jumplora_adapters.manifest import is_digest
from jumplora_adapters.routing import Staged, check_alias, check_seconds, check_share
from jumplora_adapters.store_lock import Patience
from jumplora_adapters.store_steps import StoreSteps


class StoreRouting(StoreSteps):
    """All of them raise UnknownTask, UnknownVersion, VersionConflict and StoreError."""

    def stage(
        self,
        task: str,
        digest: str,
        share: float,
        *,
        promote_after: float | None = None,
        patience: Patience | None = None,
    ) -> Staged:
        """Give a stored version a share of the task's requests, or another share than before.

        It takes the place of one that was staged. Raises VersionConflict for the current version,
        and ValueError for a share that is not from 0 to 1.
        """
        wish = Staged(digest, check_share(share), "", check_seconds(promote_after))
        self.current(task)
        with self._changing(patience):
            self._check_stored(task, digest)
            with ExitStack() as undo:
                return self._stage(task, wish, self._state(task), undo)

    def promote(
        self, task: str, digest: str | None = None, *, patience: Patience | None = None
    ) -> str:
        """Make the staged version current, which must be `digest` if that is given; returns it.

        Raises UnknownVersion where its file is gone.
        """
        self.current(task)
        with self._changing(patience):
            state = self._state(task)
            staged = self._staged(task, digest, state)
            self._check_stored(task, staged.version)
            with ExitStack() as undo:
                self._point(task, staged.version, "promote", state, undo)
            return staged.version

    def unstage(
        self,
        task: str,
        digest: str | None = None,
        *,
        note: str = "",
        patience: Patience | None = None,
    ) -> str:
        """Give the staged version, which must be `digest` if that is given, no requests any more.

        It stays in the store. `note` says why, for the history. Returns the version.
        """
        self.current(task)
        with self._changing(patience):
            state = self._state(task)
            version = self._staged(task, digest, state).version
            with ExitStack() as undo:
                routing = state.routing.staging(None)
                self._route(task, version, "unstage", state, routing, undo, note)
            return version

    def alias(
        self, task: str, name: str, digest: str | None, *, patience: Patience | None = None
    ) -> None:
        """Let `name` mean a stored version of the task, or with None nothing any more.

        Raises AliasInvalid for a name that is not allowed.
        """
        check_alias(name)
        self.current(task)
        with self._changing(patience):
            state = self._state(task)
            before = state.routing.aliases.get(name)
            if digest is not None:
                self._check_stored(task, digest)
            if before == digest:
                return
            routing = state.routing.naming(name, digest)
            event: Event = "unalias" if digest is None else "alias"
            with ExitStack() as undo:
                about = digest or before
                assert about is not None
                self._route(task, about, event, state, routing, undo, name)

    def meant(self, task: str, version: str | None) -> str | None:
        """The digest of a version that is given by its beginning or its name; None for None. A
        whole one is taken as it is: of a staged version the file may be gone."""
        if version is None or is_digest(version):
            return version
        return self.resolve(f"{task}@{version}")[1]

    def _staged(self, task: str, digest: str | None, state: TaskState) -> Staged:
        staged = state.routing.staged
        if staged is None:
            raise VersionConflict(f"task {task!r} has no staged version: stage one first")
        if digest is not None and digest != staged.version:
            raise VersionConflict(
                f"the staged version of task {task!r} is {staged.version}, not {digest[:80]}"
            )
        return staged

    def _check_stored(self, task: str, digest: str) -> None:
        if not is_digest(digest) or not files.is_version(self.root / task, digest):
            raise UnknownVersion(f"task {task!r} has no version {digest[:80]!r}")
