"""The loader: one thread that reads, validates, packs, installs and warms up versions.

It does what Jobs says and tells Loads what came of it; the engine is reached through a Protocol.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Protocol, TypeVar

from jumplora_adapters.errors import AdapterError
from jumplora_adapters.errors import UnknownTask as NotInStore
from jumplora_adapters.format import Adapter

from jumplora_server.errors import AdapterUnavailable, Draining, ServerError, UnknownTask
from jumplora_server.metrics_state import Stage
from jumplora_server.residency.jobs import Job, Jobs
from jumplora_server.residency.leases import Leases
from jumplora_server.residency.loads import Loads
from jumplora_server.residency.reader import StoreReader
from jumplora_server.residency.report import Report
from jumplora_server.residency.slots import Room
from jumplora_server.residency.status import TaskStatus
from jumplora_server.residency.tasks import Tasks
from jumplora_server.residency.version import VersionFacts
from jumplora_server.routing import Lease, LoadFailure

WarmUp = Callable[[Lease], Future[None]]

_log = logging.getLogger(__name__)


class Packed(Protocol):
    """An adapter in the form the engine applies."""

    @property
    def nbytes(self) -> int: ...

    @property
    def nnz(self) -> int: ...

    @property
    def density(self) -> float: ...


P = TypeVar("P", bound=Packed)


class AdapterEngine(Protocol[P]):
    """What the loader needs of the engine; see Engine."""

    @property
    def device(self) -> str: ...

    def pack(self, adapter: Adapter) -> P: ...

    def install(self, packed: P) -> int: ...

    def remove(self, slot: int) -> None: ...


class _NoRoom(Exception):
    """What could be evicted for `digest` is in use."""

    def __init__(self, digest: str) -> None:
        super().__init__(digest)
        self.digest = digest


class Loader:
    """Started and stopped once."""

    def __init__(
        self,
        engine: AdapterEngine[P],
        reader: StoreReader,
        warm_up: WarmUp,
        *,
        jobs: Jobs,
        leases: Leases,
        loads: Loads,
        tasks: Tasks,
        report: Report,
        changed: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """`warm_up` runs a version before it is in service; its future raises if that fails.
        `changed` is called when what waits for a version should look again."""
        self._install_packed = _Bench(engine)
        self._engine = engine
        self._reader = reader
        self._warm_up = warm_up
        self._jobs = jobs
        self._leases = leases
        self._loads = loads
        self._tasks = tasks
        self._report = report
        self._changed = changed
        self._clock = clock
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
