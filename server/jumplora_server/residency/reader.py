"""What residency reads of the store."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.errors import AdapterError, StoreError, UnknownTask
from jumplora_adapters.format import Adapter, read_adapter, read_supports
from jumplora_adapters.manifest import check_task_id
from jumplora_adapters.overlap import Support
from jumplora_adapters.routing import Routing
from jumplora_adapters.store import Store
from jumplora_adapters.store_files import read_pointer
from jumplora_server.residency.entries import Known, VersionFacts
from jumplora_server.residency.setback import Stamps

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Desired:
    """What the store wants of a task.

    `versions` are the stored ones in the order in which they last became current; `move` is the
    direction in which the pointer moved last. `routing` is None where it cannot be read.
    """

    version: str
    versions: tuple[str, ...]
    move: Literal["forward", "back"]
    routing: Routing | None = None


class StoreReader:
    """Reads one store for one backbone. Raises AdapterError and OSError; thread-safe."""

    def __init__(
        self, store: Store, backbone: Backbone, reserved: Collection[str] = frozenset()
    ) -> None:
        """A task whose id is `reserved` counts as not stored: the id means the backbone here."""
        self._store = store
        self._backbone = backbone
        self._reserved = frozenset(reserved)
        self._told: set[str] = set()  # reserved ids that the log has
        self._misrouted: set[str] = set()  # tasks of whose routing the log says what is wrong

    def survey(self) -> dict[str, str | StoreError]:
        """The desired version of every task, or what is wrong with its pointer.

        Raises StoreError while the store as a whole is not there.
        """
        found = self._store.survey()
        for task in found.keys() & self._reserved:
            del found[task]
            self._tell_reserved(task)
        return found

    def holds(self, task: str) -> bool:
        """Whether the store has a task of that id; reads one small file and scans nothing."""
        folder = self._store.root / check_task_id(task)
        return task not in self._reserved and read_pointer(folder) is not None

    def pointer(self, task: str) -> str | None:
        """What the task's pointer holds; None where it cannot be read."""
        try:
            return read_pointer(self._store.root / check_task_id(task))
        except (AdapterError, OSError):
            return None

    def desired(self, task: str) -> Desired:
        """Raises UnknownTask only when the store is there and does not hold the task, NoPointer
        when the task's folder is there without one."""
        if task in self._reserved:
            raise UnknownTask(f"task id {task!r} means the bare backbone here")
        try:
            version = self._store.current(task)
            entries = self._store.history(task)
            stored = self._store.versions(task)
        except UnknownTask:
            # A mount that went away must not look like a store from which all was removed.
            found = self._store.survey().get(task)
            if isinstance(found, StoreError):
                raise found from None
            raise
        order = dict.fromkeys(stored)  # what the history does not tell of counts as oldest
        for entry in entries:
            order.pop(entry.digest, None)
            order[entry.digest] = None
        order.setdefault(version)
        is_back = bool(entries) and entries[-1].event == "rollback"
        routing = self._routing(task)
        return Desired(version, tuple(order), "back" if is_back else "forward", routing)

    def routings(self) -> dict[str, Routing]:
        """By task, of those that have one that can be read: its routing, as its file says it."""
        found = self._store.routings()
        return {task: each for task, each in found.items() if isinstance(each, Routing)}

    def known(self, digest: str) -> Known:
        """A version by its header."""
        manifest = self._store.manifest(digest)
        size = self._store.path_of(digest).stat().st_size
        profile = 0 if manifest.profile is None else manifest.profile.nbytes
        return Known(VersionFacts(digest, manifest.task, manifest.lineage, size, profile), manifest)

    def lineage(self, digest: str) -> tuple[Known, ...]:
        """A version and all that it stands on, ancestors first.

        Raises StoreError for one that is its own ancestor, which no publish allows.
        """
        found: dict[str, Known] = {}
        read: dict[str, Known] = {}
        path = [digest]  # from the version down to an ancestor that is being read
        while path:
            last = path[-1]
            if last not in read:
                read[last] = self.known(last)
            missing = next((a for a in read[last].facts.ancestors if a not in found), None)
            if missing is None:
                found[path.pop()] = read[last]
            elif missing in read:
                raise StoreError(f"version {missing[:12]} is its own ancestor")
            else:
                path.append(missing)
        return tuple(found.values())

    def stamps(self, digests: Iterable[str]) -> Stamps:
        """What tells one state of the versions' files from the next."""
        return self._store.stamps_of_all(digests)

    def adapter(self, digest: str) -> Adapter:
        """Read and validate a version, all checks; of several copies the first that is sound."""
        first: AdapterError | OSError | None = None
        for path in self._store.files_of(digest) or (self._store.path_of(digest),):
            try:
                return read_adapter(
                    path,
                    self._backbone,
                    max_file_bytes=self._store.max_file_bytes,
                    expect_digest=digest,
                    follow_links=False,
                )
            except (AdapterError, OSError) as error:
                first = first or error
        assert first is not None
        raise first

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

    def _routing(self, task: str) -> Routing | None:
        try:
            routing = self._store.routing(task)
        except (AdapterError, OSError) as error:
            if task not in self._misrouted:
                _log.warning("the routing of task %s stays what it was: %s", task, error)
            self._misrouted.add(task)
            return None
        self._misrouted.discard(task)
        return routing

    def _tell_reserved(self, task: str) -> None:
        if task not in self._told:
            _log.warning(
                "task %r of the store is skipped: that id means the bare backbone here, whose "
                "names are set by JUMPLORA_BASE_NAME and JUMPLORA_SERVED_NAME",
                task,
            )
        self._told.add(task)
