"""The loader: one thread that reads, validates, packs, installs and tries out versions.

It does what Jobs says and enters the result into the table, which decides what has to go. With
nothing to load it compares what is served, which may fail without any harm. Whatever is raised
anywhere in a job ends that job, never the thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from jumplora_adapters.errors import AdapterError, NoPointer
from jumplora_adapters.errors import UnknownTask as NotInStore
from jumplora_server.errors import Draining, ServerError, UnknownTask
from jumplora_server.metrics.state import Stage
from jumplora_server.pulse import Pulse
from jumplora_server.residency.entries import LoadFailure, other_task
from jumplora_server.residency.folding import Folding, plan
from jumplora_server.residency.installer import Installer
from jumplora_server.residency.jobs import Job, Jobs, Turn
from jumplora_server.residency.overlaps import Overlaps
from jumplora_server.residency.reader import StoreReader
from jumplora_server.residency.report import Report
from jumplora_server.residency.setback import Refused, Setback, Stamps, failure_below, failure_of
from jumplora_server.residency.shared import Shared
from jumplora_server.residency.trials import Trials
from jumplora_server.residency.versions import Room

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
        installer: Installer,
        reader: StoreReader,
        trials: Trials,
        *,
        shared: Shared,
        jobs: Jobs,
        report: Report,
        overlaps: Overlaps,
        folding: Folding,
        changed: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """`changed` is called when those that wait for a version should look again."""
        self._installer = installer
        self._reader = reader
        self._try_out = trials
        self._shared = shared
        self._jobs = jobs
        self._report = report
        self._overlaps = overlaps
        self._folding = folding
        self._changed = changed
        self._clock = clock
        self.pulse = Pulse("loader", clock)
        self._thread = threading.Thread(
            target=self.pulse.run, args=(self._run,), name="loader", daemon=True
        )

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
            self._take(turn)
        with self._shared as table:
            table.clear()
        self._installer.tidy()

    def _take(self, turn: Turn) -> None:
        """Do one turn; its callers get the error that it raises."""
        job, error = turn.job, None
        try:
            self._installer.tidy()
            with self._shared as table:
                for digest in turn.starving:
                    table.yield_for(digest)
            if job is not None and job.kind == "compare":
                self._compare()
            elif job is not None:
                error = self._do(job)
        except _NoRoom as lack:
            assert job is not None
            if self._waits_for_room(job, lack.digest):
                return
            error = Draining("the server is shutting down")
        except Exception as bug:  # the bookkeeping itself: nothing may be left half done
            failure = failure_of(bug)
            error = failure.told()
            self._recover(job, bug, failure)
        if job is not None and job.kind != "compare":
            self._answer(job, error)

    def _waits_for_room(self, job: Job, digest: str) -> bool:
        """Put a job back until there is room; False after `stop`."""
        try:
            self._installer.tidy()  # what was loaded of it before
        except Exception:
            _log.exception("the loader could not free a version without room")
        return self._jobs.put_back(job, digest)

    def _recover(self, job: Job | None, bug: Exception, failure: LoadFailure) -> None:
        """After a bug: nothing is loading any more, and what is wanted is tried again later."""
        now = self._clock()
        task: str | None = None
        try:
            with self._shared as table:
                task = table.wanted_by(job.subject) if job is not None else None
                table.versions.abort_all()
                table.versions.unyield()
        except Exception:
            _log.exception("the loader could not undo the job that it had begun")
        try:
            setback = None
            if job is not None and job.kind == "settle":
                pointer = self._reader.pointer(job.subject)
                with self._shared as table:
                    setback = table.blame(job.subject, failure, now, pointer=pointer)
                self._retry(job.subject, setback)
            elif job is not None and task is not None:
                with self._shared as table:
                    setback = table.fail(task, job.subject, failure, loading=(), seen={}, now=now)
                self._retry(task, setback)
            if setback is None or setback.is_news:
                _log.error("the loader failed on %s", job or "its turn", exc_info=bug)
            self._installer.tidy()
            self._changed()
        except Exception:
            _log.exception("the loader could not note a failure")

    def _do(self, job: Job) -> ServerError | None:
        """Settle or fetch; returns the error for those that wait, if any. Raises _NoRoom."""
        error: ServerError | None = None
        try:
            if job.kind == "settle":
                error = self._settle(job)
            else:
                self._fetch(job)
        except NotInStore as missing:
            self._forget(job.subject)
            error = UnknownTask(str(missing))
        with self._shared as table:
            table.versions.unyield()
        self._installer.tidy()
        self._changed()
        self._jobs.request("compare", "")
        return error

    def _answer(self, job: Job, error: ServerError | None) -> None:
        for future in job.futures:
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if error is not None:
                    raise error
                status = self._report.status(job.subject)
            except ServerError as answer:
                future.set_exception(answer)
            except Exception as bug:
                _log.exception("the loader failed to answer for %s", job.subject)
                future.set_exception(failure_of(bug).told())
            else:
                future.set_result(status)

    def _compare(self) -> None:
        """One pair, then whatever came in since."""
        try:
            with self.pulse.doing("comparing adapters"):
                overlaps = self._overlaps.compare(list(self._report.statuses()))
        except Exception:  # a figure less, until something else is served
            _log.exception("served adapters could not be compared")
            return
        if overlaps is not None:
            self._report.overlaps(overlaps)
            self._jobs.request("compare", "")

    def _forget(self, task: str) -> None:
        with self._shared as table:
            table.forget(task)
        _log.info("task %s is no longer in the store", task)

    def _settle(self, job: Job) -> ServerError | None:
        """Make a task serve what the store says, or the best there is."""
        task = job.subject
        try:
            with self.pulse.doing(f"reading what {task} should serve"):
                desired = self._reader.desired(task)
            with self._shared as table:
                before = table.staging(task)
                table.observe(task, desired.version, desired.versions, desired.routing)
                after = table.staging(task)
        except NotInStore:
            raise
        except Exception as error:
            return self._blame(task, error)
        with self._shared as table:
            candidates = table.candidates(task, self._clock(), retry=job.failures == "retry")
        for digest in candidates:
            try:
                if not self._load(task, digest, job.room):
                    continue
            except _NoRoom:
                if job.room == "evict":
                    raise
                self._expect(task, digest)
                break
            with self._shared as table:
                is_flipped = table.flip(task, digest) is not None
            if is_flipped:
                is_back = desired.move == "back" and digest == desired.version
                self._report.flipped(task, digest, "back" if is_back else "forward")
            break
        if before is not None and after is None:
            self._report.unstaged(task, before)
        self._open_staged(job)
        self._report.state(task)
        return None

    def _open_staged(self, job: Job) -> None:
        """Bring a task's staged version to where it gets its share."""
        task = job.subject
        with self._shared as table:
            digest = table.to_open(task, self._clock(), retry=job.failures == "retry")
        if digest is None:
            return
        with suppress(AdapterError, OSError):  # what is wrong with it, the load says
            known = self._reader.known(digest)
            with self._shared as table:
                table.expect_staged(task, known)
        try:
            if not self._load(task, digest, job.room):
                return
        except _NoRoom:
            if job.room == "evict":
                raise
            return  # loaded once it is asked for
        with self._shared as table:
            failure = table.open(task, digest)
            route = table.routing.routes.get(task)
        if failure is not None:
            self._fail(task, digest, Refused(failure), self._clock(), (), {})
        elif route is not None and route.staged is not None:
            self._report.staged(task, digest, route.staged.share)

    def _expect(self, task: str, digest: str) -> None:
        known = self._reader.known(digest)
        with self._shared as table:
            table.expect(task, known)

    def _blame(self, task: str, error: Exception) -> ServerError:
        """Its pointer, or what belongs to it, cannot be read; the task serves what it served."""
        failure = failure_of(error)
        with self.pulse.doing(f"reading the pointer of {task}"):
            pointer = self._reader.pointer(task)
        with self._shared as table:
            if isinstance(error, NoPointer) and task not in table.routing.routes:
                return UnknownTask(str(error))
            setback = table.blame(task, failure, self._clock(), pointer=pointer)
        if setback.is_news:
            _log.warning(
                "cannot read what %s should serve: %s",
                task,
                failure.message,
                exc_info=error if failure.code == "internal" else None,
            )
        self._retry(task, setback)
        self._report.blamed(task, failure, is_news=setback.is_news)
        return failure.told()

    def _retry(self, task: str, setback: Setback) -> None:
        self._jobs.request("settle", task, urgency="later", at=setback.retry_at)

    def _fetch(self, job: Job) -> None:
        """Load one version that sequences wait for."""
        with self._shared as table:
            task = table.wanted_by(job.subject)
            if table.versions.is_resident(job.subject):  # by an older order
                return
        if task is not None and not self._load(task, job.subject, job.room):
            self._jobs.request("settle", task)  # it falls back where this is what it served

    def _load(self, task: str, digest: str, room: Room) -> bool:
        """Bring a version to READY, with what it needs. False when it failed, which is noted."""
        began = self._clock()
        seconds: dict[Stage, float] = {}
        loading: tuple[str, ...] = ()
        seen: dict[str, tuple[object, ...]] = {}
        try:
            with self._shared as table:
                revived = table.revive(task, digest)
            if isinstance(revived, LoadFailure):
                raise Refused(revived)
            if not revived:  # else it needs no file, which may be gone
                loading = self._begin(task, digest, room, seen)
                self._installer.tidy()  # evicted ones leave before others take their room
                self._changed()
                self._report.state(task)
                for each in loading:
                    with self.pulse.doing(f"loading version {each[:12]}"):
                        if not self._install(digest, each, loading, seconds):
                            raise _NoRoom(digest)
            self._try_out(digest, loading, seconds)
        except _NoRoom:
            raise
        except Exception as error:  # whatever it is, the server serves what it has
            self._fail(task, digest, error, began, loading, seen)
            return False
        ended = self._clock()
        with self._shared as table:
            table.commit(task, digest, loading)
        if loading:
            self._report.loaded(task, digest, seconds, (began, ended))
        return True

    def _install(
        self, digest: str, each: str, loading: tuple[str, ...], seconds: dict[Stage, float]
    ) -> bool:
        """Install a version, or one of what it needs. False: no room."""
        try:
            return self._installer.install(each, loading, seconds)
        except Exception as error:
            if each == digest:
                raise
            raise Refused(failure_below(error)) from error

    def _begin(
        self, task: str, digest: str, room: Room, seen: dict[str, tuple[object, ...]]
    ) -> tuple[str, ...]:
        """Read the headers and make room; `seen` gets the files as they were before. Raises
        _NoRoom, and what the store does."""
        with self.pulse.doing(f"reading the lineage of version {digest[:12]}"):
            seen.update(self._reader.stamps([digest]))
            known = self._reader.known(digest)
            if known.facts.task != task:
                raise Refused(other_task(known.facts, task))
            seen.update(self._reader.stamps(known.facts.ancestors))
            try:
                lineage = self._reader.lineage(digest)
            except Exception as error:
                raise Refused(failure_below(error)) from error
            needed = plan(lineage, digest, self._folding)
        if self._folding.is_out_of_reach(needed[-1]):
            _log.warning(
                "version %s is computed unfolded: a trunk is larger than the adapter budget"
                " (JUMPLORA_ADAPTER_BUDGET_BYTES)",
                digest[:12],
            )
        with self._shared as table:
            begun = table.begin(needed, digest, room)
        if begun is None:
            raise _NoRoom(digest)
        return begun

    def _fail(
        self,
        task: str,
        digest: str,
        error: Exception,
        began: float,
        loading: tuple[str, ...],
        seen: Stamps,
    ) -> None:
        failure = failure_of(error)
        with self._shared as table:
            setback = table.fail(
                task, digest, failure, loading=loading, seen=dict(seen), now=self._clock()
            )
            route = table.routing.routes.get(task)
        is_wanted = route is not None and (
            route.desired == digest or route.role_of(digest) == "staged"
        )
        _log.log(
            logging.WARNING if setback.is_news and is_wanted else logging.DEBUG,
            "version %s of task %s does not load: %s",
            digest[:12],
            task,
            failure.message,
            exc_info=error if failure.code == "internal" else None,
        )
        if is_wanted:
            self._retry(task, setback)
        self._report.failed(task, digest, failure, began, is_news=setback.is_news)
