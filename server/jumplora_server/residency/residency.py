"""The facade of residency: wires its parts; what the API, the engine loop and operators call."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.errors import AdapterError, StoreError
from jumplora_adapters.errors import UnknownVersion as VersionNotInStore
from jumplora_adapters.routing import NO_ROUTING
from jumplora_adapters.store import Store
from jumplora_server.core import Lease
from jumplora_server.errors import Draining, UnknownTask, UnknownVersion
from jumplora_server.events import Events
from jumplora_server.metrics.metrics import Metrics
from jumplora_server.metrics.overlap import OverlapSnapshot
from jumplora_server.pulse import Pulse
from jumplora_server.residency.engine import AdapterEngine, ReplayCanaries, WarmUp
from jumplora_server.residency.entries import Known, LoadFailure, PinState, Route
from jumplora_server.residency.folding import Folding
from jumplora_server.residency.installer import Installer
from jumplora_server.residency.jobs import Jobs
from jumplora_server.residency.loader import Loader
from jumplora_server.residency.lookout import Lookout, Ration
from jumplora_server.residency.overlaps import Overlaps
from jumplora_server.residency.reader import StoreReader
from jumplora_server.residency.report import Report
from jumplora_server.residency.setback import Waits, failure_of
from jumplora_server.residency.shared import Shared
from jumplora_server.residency.status import TaskStatus, Tier
from jumplora_server.residency.table import Table
from jumplora_server.residency.trials import Trials
from jumplora_server.residency.watcher import Watcher
from jumplora_server.tracing.tracer import Loading

_log = logging.getLogger(__name__)

# A few adapters are loaded by then, so that the first requests meet them; of many, those that are
# asked for come first.
FIRST_LOADS_SECONDS = 1.0


class Residency:
    """All methods are thread-safe and short, except `start` and `stop`."""

    def __init__(
        self,
        store: Store,
        backbone: Backbone,
        engine: AdapterEngine[Any],
        *,
        folding: Folding,
        metrics: Metrics,
        events: Events | None = None,
        warm_up: WarmUp,
        replay_canaries: ReplayCanaries,
        clock: Callable[[], float] = time.monotonic,
        watch_seconds: float = 0.5,
        patience_seconds: float = 3.0,
        waits: Waits | None = None,
        max_overlap_tasks: int = 12,
        canary_drop: float = 1.0,
        reserved: Collection[str] = frozenset(),
        rng: random.Random | None = None,
    ) -> None:
        """`folding` has the budget of what adapters take in the engine, and says which of a
        version's ancestors are merged; no task may have a `reserved` id.

        A load waits `patience_seconds` for room before those that are in use must yield; what
        failed is tried again after `waits`. The supports of at most `max_overlap_tasks` are
        compared, each with each. A staged version may have as much as `canary_drop` less of its
        canaries right than the one that answers; `rng` draws the requests that it gets.
        """
        self._clock = clock
        self._budget_bytes = folding.budget_bytes
        self._jobs = Jobs(clock, patience_seconds)
        # Requests ask it for leases, and the engine loop for slots.
        table = Table(folding.budget_bytes, waits or Waits(), canary_drop, rng)
        self.table = Shared(table, self._jobs, clock)
        self._reader = StoreReader(store, backbone, reserved)
        tier: Tier = "host" if engine.device == "cpu" else "device"
        self._report = Report(metrics, events or Events(), self.table, tier, clock)
        self._listeners: list[Callable[[], None]] = []
        self._first_loads: list[Future[TaskStatus]] = []
        self._first_loads_end = 0.0
        self._loader = Loader(
            Installer(engine, self._reader, self.table, self._report, clock),
            self._reader,
            Trials(self.table, warm_up, replay_canaries, clock),
            shared=self.table,
            jobs=self._jobs,
            report=self._report,
            overlaps=Overlaps(self._reader, max_overlap_tasks),
            folding=folding,
            changed=self._tell,
            clock=clock,
        )
        self._lookout = Lookout(self._look, Ration(clock))
        self._refreshes = Ration(clock)  # for versions that are not known
        self._watcher = Watcher(
            self._reader.survey,
            self._noticed,
            self._settle_soon,
            watch_seconds,
            blamed=self._report.store,
            look_at_files=self._look_further,
            clock=clock,
        )

    def start(self) -> None:
        """Register the store's tasks, start the loader and the watcher.

        Returns once all tasks are routable: of each one file was read, its pointer. Their first
        loads, as far as they fit the budget, follow, and what is asked for overtakes them. The
        engine loop should run.
        """
        for task, found in sorted(self._watcher.look().items()):
            with self.table as table:
                if isinstance(found, str):
                    table.observe(task, found, (found,))
            first: Future[TaskStatus] = Future()
            self._jobs.request("settle", task, room="free", urgency="later", future=first)
            self._first_loads.append(first)
        self._first_loads_end = self._clock() + FIRST_LOADS_SECONDS
        self._loader.start()
        self._watcher.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Stop both threads within `timeout` seconds in all, and free what is not in use.

        Stop the engine loop before.
        """
        began = time.monotonic()
        self._watcher.stop(timeout)
        self._loader.stop(max(0.0, timeout - (time.monotonic() - began)))

    @property
    def pulses(self) -> tuple[Pulse, ...]:
        """What the loader and the watcher are doing."""
        return self._loader.pulse, self._watcher.pulse

    @property
    def store_fault(self) -> str | None:
        """Why the store could not be read when it was last compared; None when it could."""
        return self._watcher.fault

    @property
    def settled(self) -> bool:
        """Whether the loads of the start are through, well or not."""
        return all(first.done() for first in self._first_loads)

    @property
    def is_starting(self) -> bool:
        """Whether first loads are under way that are worth a moment's wait."""
        return self._clock() < self._first_loads_end and not self.settled

    # Requests

    def acquire(self, task_spec: str) -> Lease:
        """As `table.acquire`, with a look at the store where one is needed.

        Reads a file then: not for the event loop.
        """
        known: Known | None = None
        is_refreshed = False
        while True:
            try:
                found = self.table.acquire(task_spec, known)
            except UnknownVersion:
                if is_refreshed or not self._refreshes.try_take():
                    raise
                is_refreshed = True
                self._refresh(task_spec.partition("@")[0])
                continue
            if isinstance(found, Lease):
                return found
            known = self._read(found)

    @property
    def may_refresh(self) -> bool:
        """Whether `acquire` would look into the store for a version that is not known."""
        return self._refreshes.is_left

    def look_for(self, task: str) -> Future[TaskStatus] | None:
        """Look whether a task that `acquire` did not know is in the store: published just now.

        The future ends like that of `sync`, with its first load. None when it was not looked,
        because there were too many looks of late. Reads a file: not for the event loop.
        """
        return self._lookout.look_for(task)

    def may_look_for(self, task: str) -> bool:
        """Whether `look_for` would look now; does not look, and may be asked anywhere."""
        return self._lookout.may_look_for(task)

    def on_load(self, callback: Callable[[Loading], None]) -> None:
        """Call `callback`, on the loader's thread, after each load, well or not.

        To be called before `start`.
        """
        self._report.on_load = callback

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback`, on the loader's thread, when `claim` may answer otherwise than before.

        To be called before `start`.
        """
        self._listeners.append(callback)

    # Operators

    @property
    def tasks(self) -> int:
        """How many are registered."""
        with self.table as table:
            return len(table.routing.routes)

    @property
    def free_bytes(self) -> int:
        """What the budget has left; below 0 where trunks take more than it."""
        with self.table as table:
            return table.versions.budget_bytes - table.versions.used_bytes

    @property
    def budget_bytes(self) -> int:
        """What adapters and trunks may take in the engine."""
        return self._budget_bytes

    @property
    def used_bytes(self) -> int:
        """What they took after the last change that was reported; counts nothing anew."""
        return self._report.used_bytes

    @property
    def compared(self) -> tuple[OverlapSnapshot, ...]:
        """The pairs of served versions that were compared so far; some may not serve any more."""
        return self._report.compared

    def knows(self, task: str) -> bool:
        """Whether the task is registered."""
        with self.table as table:
            return task in table.routing.routes

    def closest(self, task: str, may_name: Callable[[str], bool]) -> list[str]:
        """The registered tasks that have names like it and may be named, best first."""
        return self.table.closest(task, may_name)

    @property
    def routes(self) -> Mapping[str, Route]:
        """All registered tasks as they are routed now; a value, which nothing changes."""
        with self.table as table:
            return table.routing.routes

    def each_status(self, tasks: Sequence[str] | None = None) -> Iterator[TaskStatus]:
        """Of those tasks in their order, without those that are gone, or of all, sorted by id;
        looked up as they are asked for."""
        return self._report.statuses(tasks)

    def status(self, task: str) -> TaskStatus:
        """Raises UnknownTask."""
        with self.table.naming_closest(task):
            return self._report.status(task)

    def version_of(self, task_spec: str) -> str:
        """The digest that "task@prefix" means. Raises UnknownTask, UnknownVersion."""
        with self.table.naming_closest(task_spec.partition("@")[0]), self.table as table:
            return table.routing.version(task_spec)[1]

    def sync(self, task: str) -> Future[TaskStatus]:
        """Apply the store's pointer of `task` now, trying again what failed before and evicting
        others where needed.

        Resolves when the task serves it, or when it was refused (`failure` says why). Calls that
        come during a load come to one more, of the newest pointer. The future's exceptions are
        UnknownTask, AdapterUnavailable (the store cannot be read) and Draining.
        """
        done: Future[TaskStatus] = Future()
        if not self._jobs.request("settle", task, failures="retry", future=done):
            done.set_exception(Draining("the server is shutting down"))
        return done

    def pin(self, task: str, pinned: PinState) -> None:
        """Keep the task's served version from eviction (and load it), or no longer.

        Raises UnknownTask.
        """
        with self.table.naming_closest(task), self.table as table:
            is_new = table.versions.is_pinned(task) != (pinned == "pinned")
            table.pin(task, pinned)
        if is_new:
            self._report.pinned(task, pinned)

    def shut(self, task: str, version: str, failure: LoadFailure) -> None:
        """Give a staged version no share here any more, until the store stages one anew."""
        with self.table as table:
            table.shut(task, version, failure, self._clock())
        self._report.state(task)

    def forget(self, task: str) -> None:
        """After `store.remove`: no new leases; running sequences end, then all is freed."""
        with self.table as table:
            table.forget(task)
        # Puts it right if it was published again since.
        self._jobs.request("settle", task, urgency="soon")

    def notify(self) -> None:
        """Compare the store's pointers now instead of within the watcher's period."""
        self._watcher.notify()

    # Inside

    def _refresh(self, task: str) -> None:
        try:
            desired = self._reader.desired(task)
        except (AdapterError, OSError):
            return  # the answer stays what it was
        with self.table as table:
            table.observe(task, desired.version, desired.versions, desired.routing)
        self._jobs.request("settle", task, urgency="soon")

    def _look(self, task: str, done: Future[TaskStatus]) -> None:
        try:
            is_stored = self._reader.holds(task)
        except StoreError:
            is_stored = True  # its pointer is at fault: the loader says what is wrong
        except (AdapterError, OSError):
            is_stored = False  # the answer stays what it was
        if not is_stored:
            done.set_exception(UnknownTask(f"task {task!r} is not in the store"))
        elif not self._jobs.request("settle", task, failures="retry", future=done):
            done.set_exception(Draining("the server is shutting down"))

    def _read(self, digest: str) -> Known:
        try:
            return self._reader.known(digest)
        except VersionNotInStore as error:
            raise UnknownVersion(str(error)) from error
        except (AdapterError, OSError) as error:
            raise failure_of(error).told() from error

    def _noticed(self) -> dict[str, str | None]:
        with self.table as table:
            return table.noticed()

    def _look_further(self) -> None:
        self._follow_routings()
        self._retry_repaired()

    def _follow_routings(self) -> None:
        """Have the tasks settled of which the store stages or names other versions than before."""
        found = self._reader.routings()
        with self.table as table:
            pointers, noticed = table.noticed(), table.noticed_routings()
        for task, pointer in pointers.items():
            routing = found.get(task, NO_ROUTING)
            if routing.staged is not None and routing.staged.version == pointer:
                routing = routing.staging(None)  # promoted
            if routing != noticed.get(task, NO_ROUTING):
                self._settle_soon(task)

    def _retry_repaired(self) -> None:
        """Try what did not load from files that are others by now."""
        with self.table as table:
            suspects = table.suspects()
        if not suspects:
            return
        stamps = self._reader.stamps({digest for _, seen in suspects for digest in seen})
        for task, seen in suspects:
            if any(stamps[digest] != seen[digest] for digest in seen):
                self._jobs.request("settle", task, failures="retry", urgency="soon")

    def _settle_soon(self, task: str) -> None:
        # Not "retry": where a publish was faster, its version was tried already.
        self._jobs.request("settle", task, urgency="soon")

    def _tell(self) -> None:
        for callback in self._listeners:
            callback()
