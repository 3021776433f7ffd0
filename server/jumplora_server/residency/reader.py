"""What residency reads of the store."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.errors import StoreError, UnknownTask
from jumplora_adapters.format import Adapter, read_adapter, read_supports
from jumplora_adapters.manifest import check_task_id
from jumplora_adapters.overlap import Support
from jumplora_adapters.store import Store
from jumplora_adapters.store_files import read_pointer
from jumplora_server.residency.shelf import Known
from jumplora_server.residency.version import VersionFacts

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Desired:
    """What the store wants of a task.

    `versions` are the stored ones in the order in which they last became current; `move` is the
    direction in which the pointer moved last.
    """

    version: str
    versions: tuple[str, ...]
    move: Literal["forward", "back"]


class StoreReader:
    """Reads one store for one backbone. Raises AdapterError and OSError; thread-safe."""

    def __init__(self, store: Store, backbone: Backbone, reserved: str | None = None) -> None:
        """A task named `reserved` counts as not stored: that id means something else here."""
        self._store = store
        self._backbone = backbone
        self._reserved = reserved
        self._is_reserved_told = False

    def pointers(self) -> dict[str, str]:
        """The desired version of every task."""
        pointers = self._store.pointers()
        if not pointers:
            self._check_root()
        if self._reserved in pointers:
            del pointers[self._reserved]
            self._tell_reserved()
        return pointers

    def holds(self, task: str) -> bool:
        """Whether the store has a task of that id; reads one small file and scans nothing."""
        folder = self._store.root / check_task_id(task)
        return task != self._reserved and read_pointer(folder) is not None

    def desired(self, task: str) -> Desired:
        """Raises UnknownTask only when the store is there and does not hold the task."""
        if task == self._reserved:
            raise UnknownTask(f"task id {task!r} means the bare backbone here")
        try:
            version = self._store.current(task)
            entries = self._store.history(task)
            stored = self._store.versions(task)
        except UnknownTask:
            self._check_root()
            raise
        order = dict.fromkeys(stored)  # what the history does not tell of counts as oldest
        for entry in entries:
            order.pop(entry.digest, None)
            order[entry.digest] = None
        order.setdefault(version)
        is_back = bool(entries) and entries[-1].event == "rollback"
        return Desired(version, tuple(order), "back" if is_back else "forward")

    def known(self, digest: str) -> Known:
        """A version by its header."""
        manifest = self._store.manifest(digest)
        size = self._store.path_of(digest).stat().st_size
        return Known(VersionFacts(digest, manifest.task, manifest.lineage, size), manifest)

    def lineage(self, digest: str) -> tuple[Known, ...]:
        """A version and all that it stands on, ancestors first."""
        found: dict[str, Known] = {}
        self._collect(digest, found, ())
        return tuple(found.values())

    def adapter(self, digest: str) -> Adapter:
        """Read and validate a version, all checks."""
        return read_adapter(
            self._store.path_of(digest),
            self._backbone,
            max_file_bytes=self._store.max_file_bytes,
            expect_digest=digest,
            follow_links=False,
        )

    def supports(self, digest: str) -> dict[str, Support]:
        """Module -> which entries a version keeps that was loaded before; empty for a low-rank one.

        Reads masks only: no values, and no digest of the whole.
        """
        return read_supports(
            self._store.path_of(digest),
            self._backbone,
            max_file_bytes=self._store.max_file_bytes,
            follow_links=False,
        )

    def _collect(self, digest: str, found: dict[str, Known], path: tuple[str, ...]) -> None:
        if digest in found:
            return
        known = self.known(digest)
        for ancestor in known.facts.ancestors:
            if ancestor in path:
                raise StoreError(f"version {digest[:12]} is its own ancestor")
            self._collect(ancestor, found, (*path, digest))
        found[digest] = known

    def _tell_reserved(self) -> None:
        if not self._is_reserved_told:
            _log.warning(
                "task %r of the store is skipped: that id means the bare backbone here",
                self._reserved,
            )
        self._is_reserved_told = True

    def _check_root(self) -> None:
        # A mount that went away must not look like a store from which all was removed.
        if not self._store.root.is_dir():
            raise StoreError(f"the store {self._store.root} is not there")
