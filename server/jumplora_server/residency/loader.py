"""The loader: one thread that reads, validates, packs, installs and warms up versions.

It does what Jobs says and tells Loads what came of it; nothing here decides who has to go. With
nothing to load it compares what is served, which may fail without any harm.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from jumplora_adapters.errors import AdapterError
from jumplora_adapters.errors import UnknownTask as NotInStore
from jumplora_server.errors import AdapterUnavailable, Draining, ServerError, UnknownTask
from jumplora_server.metrics_state import Stage
from jumplora_server.residency.engine import AdapterEngine, ReplayCanaries, WarmUp
from jumplora_server.residency.jobs import Job, Jobs
from jumplora_server.residency.leases import Leases
from jumplora_server.residency.loads import Loads
from jumplora_server.residency.overlaps import Overlaps
from jumplora_server.residency.reader import StoreReader
from jumplora_server.residency.report import Report
from jumplora_server.residency.slots import Room
from jumplora_server.residency.tasks import Tasks
from jumplora_server.residency.version import VersionFacts
from jumplora_server.routing import LoadFailure

_log = logging.getLogger(__name__)


class _NoRoom(Exception):
    """What could be evicted for a version is in use."""

    def __init__(self, digest: str) -> None:
        super().__init__(digest)
        self.digest = digest


class Loader:
    """Started and stopped once."""

    def __init__(
        self,
        engine: AdapterEngine[Any],
        reader: StoreReader,
        warm_up: WarmUp,
        replay_canaries: ReplayCanaries,
        *,
        jobs: Jobs,
        leases: Leases,
        loads: Loads,
        tasks: Tasks,
        report: Report,
        overlaps: Overlaps,
        changed: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """`changed` is called when whoever waits for a version should look again."""
        self._engine = engine
        self._reader = reader
        self._warm_up = warm_up
        self._replay_canaries = replay_canaries
        self._jobs = jobs
        self._leases = leases
        self._loads = loads
        self._tasks = tasks
        self._report = report
        self._overlaps = overlaps
        self._changed = changed
        self._clock = clock
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """End after the load that is under way, then free what is not in use."""
        for future in self._jobs.stop():
            if future.set_running_or_notify_cancel():
                future.set_exception(Draining("the server is shutting down"))
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while (turn := self._jobs.next()) is not None:
            self._tidy()
            for digest in turn.starving:
                self._loads.yield_for(digest)
            if turn.job is not None and turn.job.kind == "compare":
                self._compare()
            elif turn.job is not None:
                self._do(turn.job)
                self._jobs.request("compare", "")
        for task in tuple(self._tasks.routes):
            self._tasks.forget(task)
        self._tidy()

    def _tidy(self) -> None:
        """Take out of the engine what nothing uses any more."""
        for freed in self._loads.take_freed():
            self._engine.remove(freed.slot)
            self._report.freed(freed)
        for task in self._loads.take_removed():
            self._report.removed(task)

    def _do(self, job: Job) -> None:
        error: Exception | None = None
        try:
            if job.kind == "settle":
                self._settle(job)
            else:
                self._fetch(job)
        except _NoRoom as lack:
            self._jobs.put_back(job, lack.digest)
            return
        except NotInStore as missing:
            self._tasks.forget(job.subject)
            _log.info("task %s is no longer in the store", job.subject)
            error = UnknownTask(str(missing))
        except (AdapterError, OSError) as trouble:
            failure = failure_of(trouble)
            _log.warning("cannot read what %s should serve: %s", job.subject, failure.message)
            error = AdapterUnavailable(failure.message, reason=failure.code)
        except Exception as bug:  # the loader goes on, whoever waits is told
            failure = failure_of(bug)
            _log.exception("the loader failed to %s %s", job.kind, job.subject)
            error = AdapterUnavailable(failure.message, reason=failure.code)
        self._loads.unyield()
        self._tidy()
        self._changed()
        self._answer(job, error)

    def _answer(self, job: Job, error: Exception | None) -> None:
        for future in job.futures:
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if error is not None:
                    raise error
                future.set_result(self._tasks.status(job.subject))
            except ServerError as answer:
                future.set_exception(answer)

    def _compare(self) -> None:
        """One pair, then whatever came in meanwhile."""
        try:
            overlaps = self._overlaps.compare(self._tasks.statuses())
        except Exception:  # a figure less, until something else is served
            _log.exception("served adapters could not be compared")
            return
        if overlaps is not None:
            self._report.overlaps(overlaps)
            self._jobs.request("compare", "")

    def _settle(self, job: Job) -> None:
        """Make a task serve what the store says, or the best there is."""
        task, desired = job.subject, self._reader.desired(job.subject)
        self._tasks.observe(task, desired.version, desired.versions)
        for digest in self._loads.candidates(task, job.failures):
            try:
                if not self._load(task, digest, job.room):
                    continue
            except _NoRoom:
                if job.room == "evict":
                    raise
                self._tasks.expect(self._reader.known(digest))
                break
            if self._loads.serve(task, digest) is not None:
                is_back = desired.move == "back" and digest == desired.version
                self._report.flipped(task, digest, "back" if is_back else "forward")
            break
        self._report.state(task)

    def _fetch(self, job: Job) -> None:
        """Load one version that sequences wait for."""
        task = self._loads.wanted_by(job.subject)
        if task is not None and not self._load(task, job.subject, job.room):
            self._jobs.request("settle", task)  # it falls back where this is what it served

    def _load(self, task: str, digest: str, room: Room) -> bool:
        """Bring a version to READY, with its ancestors. False when it failed, which is noted."""
        seconds: dict[Stage, float] = {}
        loading: tuple[str, ...] = ()
        facts = VersionFacts(digest, task, (), 0)
        try:
            if not self._loads.revive(digest):  # else it needs no file, which may be gone
                lineage = self._reader.lineage(digest)
                facts = lineage[-1].facts
                begun = self._loads.begin(lineage, digest, room)
                if begun is None:
                    raise _NoRoom(digest)
                loading = begun
                self._tidy()  # evicted ones leave the engine before others take their room
                self._changed()
                self._report.state(task)
                for each in loading:
                    self._install(each, loading, seconds)
            self._try_out(digest, loading, seconds)
        except _NoRoom:
            raise
        except Exception as error:  # whatever it is, the server goes on with what it has
            failure = failure_of(error)
            _log.warning(
                "version %s of task %s does not load: %s",
                digest[:12],
                task,
                failure.message,
                exc_info=failure.code == "internal",
            )
            self._loads.fail(facts, loading, failure)
            self._report.failed(task, failure.code)
            return False
        self._loads.commit(digest, loading)
        if loading:
            self._report.loaded(task, digest, seconds)
        return True

    def _try_out(self, digest: str, loading: tuple[str, ...], seconds: dict[Stage, float]) -> None:
        """Have it compute, hidden: a trial run after a load, then the canaries that it owes."""
        began = self._clock()
        if loading:
            self._warm_up(self._leases.hidden_lease(digest)).result()
            seconds["warmup"] = self._clock() - began
        lease = self._leases.canary_lease(digest)
        if lease is not None:
            began = self._clock()
            accuracy = self._replay_canaries(lease)
            if accuracy is not None:
                self._loads.passed(digest, accuracy)
            seconds["canaries"] = self._clock() - began

    def _install(self, digest: str, loading: tuple[str, ...], seconds: dict[Stage, float]) -> None:
        """Read, validate, pack and install one version, hidden."""
        began = self._clock()
        adapter = self._reader.adapter(digest)
        read = self._clock()
        packed = self._engine.pack(adapter)
        if not self._loads.measure(digest, packed.nbytes, loading):
            raise _NoRoom(loading[-1])
        self._tidy()
        slot = self._engine.install(packed)
        self._loads.install(digest, slot, packed.nnz, packed.density)
        seconds["read"] = seconds.get("read", 0.0) + read - began
        seconds["pack"] = seconds.get("pack", 0.0) + self._clock() - read


def failure_of(error: Exception) -> LoadFailure:
    """What to tell of a load that raised: a stable code and a text for the operator."""
    if isinstance(error, AdapterError):
        return LoadFailure(error.code, str(error))
    if isinstance(error, ServerError):
        return LoadFailure(error.reason or error.code, error.message)
    if isinstance(error, MemoryError):
        return LoadFailure("out_of_memory", "there was not enough memory to load it")
    if isinstance(error, OSError):
        return LoadFailure("store", f"its file cannot be read: {error.strerror or error}")
    return LoadFailure("internal", f"{type(error).__name__}: {error}")
