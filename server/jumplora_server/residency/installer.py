"""Puts versions into the engine and takes them out, as the table says. For the loader's thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from jumplora_adapters.errors import StoreError
from jumplora_adapters.format import Adapter
from jumplora_server.metrics.state import Stage
from jumplora_server.residency.engine import AdapterEngine
from jumplora_server.residency.entries import Freed, Known
from jumplora_server.residency.reader import StoreReader
from jumplora_server.residency.report import Report
from jumplora_server.residency.shared import Shared

_log = logging.getLogger(__name__)


class Installer:
    """What the engine holds is what the table says, and what the engine would not give back."""

    def __init__(
        self,
        engine: AdapterEngine[Any],
        reader: StoreReader,
        shared: Shared,
        report: Report,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._reader = reader
        self._shared = shared
        self._report = report
        self._clock = clock
        self._unremoved: list[Freed] = []

    def install(self, digest: str, loading: tuple[str, ...], seconds: dict[Stage, float]) -> bool:
        """Read, validate, pack and install one version, hidden; its stages are added to `seconds`.

        A trunk is folded from the files of all its versions. False when its bytes found no room:
        then all that was `loading` is undone. Raises what reading and packing do.
        """
        began = self._clock()
        with self._shared as table:
            version = table.versions.known[digest]
            folds, own = version.folds, Known(version.facts, version.manifest)
        adapters = [self._read(known) for known in folds or (own,)]
        read = self._clock()
        packed = self._engine.fold(adapters) if folds else self._engine.pack(adapters[0])
        with self._shared as table:
            fits = table.measure(digest, packed.nbytes, loading)
        if not fits:
            return False
        self.tidy()
        slot = self._engine.install(packed)
        try:
            with self._shared as table:
                table.versions.install(digest, slot, packed.nnz, packed.density)
        except BaseException:
            self._engine.remove(slot)  # the table does not know of it
            raise
        seconds["read"] = seconds.get("read", 0.0) + read - began
        stage: Stage = "fold" if folds else "pack"
        seconds[stage] = seconds.get(stage, 0.0) + self._clock() - read
        return True

    def _read(self, known: Known) -> Adapter:
        """Raises StoreError where the file is not what its header said before: what is folded was
        chosen by that."""
        facts, manifest = known.facts, known.manifest
        adapter = self._reader.adapter(facts.digest)
        found = (adapter.manifest.task, adapter.manifest.lineage, adapter.manifest.targets)
        if found != (facts.task, facts.ancestors, manifest.targets):
            raise StoreError(
                f"the file of version {facts.digest[:12]} was replaced while it was read"
            )
        return adapter

    def tidy(self) -> None:
        """Take out of the engine what nothing uses any more."""
        with self._shared as table:
            freed, removed = table.versions.take_freed(), table.take_removed()
        # Those of which the engine raised before are tried again, until it takes them.
        to_remove, self._unremoved = [*self._unremoved, *freed], []
        for each in to_remove:
            try:
                self._engine.remove(each.slot)
            except Exception:
                self._unremoved.append(each)
                if each in freed:
                    _log.exception("slot %d of task %s could not be freed", each.slot, each.task)
        for each in freed:
            self._report.freed(each)
        for task in removed:
            self._report.removed(task)
