"""The publish transaction: an adapter file from its first byte until its version answers requests.

Work on the store's folder runs on separate threads (`StoreThreads`), so that a slow disk or
a held lock keeps no other route waiting. A change that began is finished, also after its request
was cancelled or answered with 503.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.errors import AdapterError
from jumplora_adapters.errors import StoreBusy as TurnNotCome
from jumplora_adapters.file_kind import ArchiveKind, FileKind, kind_of
from jumplora_adapters.incoming import Incoming
from jumplora_adapters.peft_upload import Made, MadeFrom, make_from_archive
from jumplora_adapters.store import Left, Published, Store
from jumplora_adapters.store_lock import Patience
from jumplora_server.errors import (
    AdapterUnavailable,
    ServerError,
    StoreBusy,
)
from jumplora_server.residency.outcome import refusal_of, require_served
from jumplora_server.residency.status import TaskStatus
from jumplora_server.store_threads import StoreThreads, returned

# Changes wait for each other at the store's lock anyway; a few may validate files at that time.
CHANGES_AT_ONCE = 4
WRITES_AT_ONCE = 4
CONVERSIONS_AT_ONCE = 1  # each takes several times the memory of its adapter
DISCARDS_AT_ONCE = 4
Taken = Callable[[], AbstractContextManager[Incoming]]
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Registry(Protocol):
    """What is asked of residency."""

    def sync(self, task: str) -> Future[TaskStatus]:
        """Follow the store's pointer of a task; ends once that is settled."""

    def forget(self, task: str) -> None:
        """The task was removed from the store."""


class Witness(Protocol):
    """Is shown what becomes of one change of the store; may be called on any thread."""

    def moved(self, version: str | None) -> None:
        """`version` is current now, which it may have been before; None where the task is gone."""

    def routed(self, version: str | None) -> None:
        """The routing has changed, by what was done with `version`: staged, taken back, named."""

    def taken_back(self) -> None:
        """The store is as it was before."""

    def ended_late(self, error: BaseException | None) -> None:
        """The change ended after its request was answered, or cancelled."""


class Unseen:
    """The witness of a change that nothing is written about."""

    def moved(self, version: str | None) -> None:
        """Nothing."""

    def routed(self, version: str | None) -> None:
        """Nothing."""

    def taken_back(self) -> None:
        """Nothing."""

    def ended_late(self, error: BaseException | None) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Release:
    """A publish that is through: what the store did, and how the task stands.

    `made_from` is None for a file that was published as it came.
    """

    published: Published
    status: TaskStatus
    made_from: MadeFrom | None = None


class Publishing:
    """One for a server, used on its event loop. Raises AdapterError and ServerError."""

    def __init__(
        self,
        store: Store,
        backbone: Backbone,
        registry: Registry,
        *,
        load_seconds: float,
        wait_seconds: float = 10.0,
        disk_seconds: float = 60.0,
    ) -> None:
        """A request waits for its turn and the store's lock at most `wait_seconds` in all, and for
        one write or one change, these waits included, at most `disk_seconds`: after that it is
        answered with StoreBusy."""
        self._store = store
        self._backbone = backbone
        self._registry = registry
        self._load_seconds = load_seconds
        self._wait_seconds = wait_seconds
        self._changers = _threads("store-change", CHANGES_AT_ONCE, disk_seconds)
        self._writers = _threads("store-write", WRITES_AT_ONCE, disk_seconds)
        self._converters = _threads("store-convert", CONVERSIONS_AT_ONCE, disk_seconds)
        self._discarders = _threads("store-discard", DISCARDS_AT_ONCE, wait_seconds)
        self._running: set[asyncio.Task[object]] = set()
        self._taken: set[Incoming] = set()  # files that a change under way will discard

    @asynccontextmanager
    async def incoming(self) -> AsyncGenerator[Incoming]:
        """A file to be written with `write`; gone at the end unless it was published."""
        incoming = await self._writers.run(self._store.incoming, returned(Incoming.discard))
        try:
            yield incoming
        finally:
            if incoming not in self._taken:
                await self._finished(self._discard(incoming))

    async def write(self, incoming: Incoming, chunk: bytes | bytearray) -> None:
        """Add a piece to the file."""
        await self._writers.run(lambda: incoming.write(chunk), _log_late)

    async def finish(self, incoming: Incoming) -> str:
        """Make the file durable; its SHA-256."""
        return await self._writers.run(incoming.finish, _log_late)

    async def fill(self, incoming: Incoming, pieces: Iterator[bytes]) -> str:
        """Write all pieces, each made on the thread that writes it, and finish; the file's SHA-256.

        Raises what `pieces` raises.
        """

        def write_next() -> bool:
            piece = next(pieces, None)
            if piece is not None:
                incoming.write(piece)
            return piece is not None

        while await self._writers.run(write_next, _log_late):
            pass
        return await self.finish(incoming)

    async def publish(
        self,
        task: str,
        incoming: Incoming,
        if_match: str | None = None,
        *,
        only_new: bool = False,
        stage: float | None = None,
        witness: Witness = Unseen(),
    ) -> Release:
        """Make a finished file the current version of `task` and wait until it answers; with
        `stage`, a share, stage it and wait for what comes of it.

        Of an archive of a PEFT folder an adapter is made first. A new version that turns out to be
        of no use once it is loaded is taken back. With `if_match` that version is replaced and no
        other, with `only_new` none at all. Raises WrongFile for a file of another kind.
        """
        kind = kind_of(incoming.head)
        self._taken.add(incoming)
        return await self._finished(
            self._publish(task, incoming, kind, if_match, witness, only_new=only_new, stage=stage)
        )

    async def roll_back(
        self, task: str, version: str | None = None, witness: Witness = Unseen()
    ) -> TaskStatus:
        """Make the version before the current one, or the given one, current and wait for it."""
        return await self._finished(self._roll_back(task, version, witness))

    async def change(
        self, task: str, change: Callable[[Patience], _T], witness: Witness = Unseen()
    ) -> tuple[_T, TaskStatus]:
        """Change the store otherwise, on its thread, and wait until the task is as it says."""
        return await self._finished(self._applied(task, change, witness))

    async def remove(self, task: str, witness: Witness = Unseen()) -> None:
        """Remove the task with all its versions."""
        await self._finished(self._remove(task, witness))

    async def settled(self, task: str, future: Future[TaskStatus]) -> TaskStatus:
        """Wait for a load of `task`. Raises AdapterUnavailable when it takes too long."""
        try:
            # Shielded: other requests may wait for the same load.
            wrapped = asyncio.shield(asyncio.wrap_future(future))
            return await asyncio.wait_for(wrapped, self._load_seconds)
        except TimeoutError as error:
            raise AdapterUnavailable(
                f"The adapter was not loaded within {self._load_seconds:.0f} s. It is still being "
                f"loaded: ask GET /v1/adapters/{task}.",
                reason="loading",
                retry_after=5.0,
            ) from error

    async def _publish(
        self,
        task: str,
        upload: Incoming,
        kind: FileKind,
        if_match: str | None,
        witness: Witness,
        *,
        only_new: bool,
        stage: float | None,
    ) -> Release:
        made_from: MadeFrom | None = None
        if kind != "adapter":
            made = await self._convert(task, upload, kind)
            upload, made_from = made.incoming, made.made_from
        published, loading = await self._adopt(
            task, upload, if_match, witness, only_new=only_new, stage=stage
        )
        status = await self.settled(task, loading)
        refusal = refusal_of(status, published)
        if refusal is not None and await self._taken_back(published, witness):
            raise refusal
        if stage is None:
            require_served(status, published.digest)
        for warning in () if made_from is None else made_from.warnings:
            _log.warning("task %s version %s: %s", task, published.digest[:12], warning)
        return Release(published, status, made_from)

    async def _convert(self, task: str, upload: Incoming, kind: ArchiveKind) -> Made:
        async with self._handed_over(upload) as taken:

            def make() -> Made:
                with taken() as archive:
                    return make_from_archive(self._store, archive.file, kind, task, self._backbone)

            late = returned(_discard_made)
            try:
                return await self._converters.run(make, late, Patience(self._wait_seconds))
            except (StoreBusy, TurnNotCome) as error:
                why = "another folder" if isinstance(error, TurnNotCome) else "this folder"
                raise StoreBusy(
                    f"converting {why} takes longer than a request waits; nothing was published: "
                    "try again later, or convert it with `jumplora convert peft`",
                    reason="convert",
                    retry_after=5.0,
                ) from error

    async def _adopt(
        self,
        task: str,
        upload: Incoming,
        if_match: str | None,
        witness: Witness,
        *,
        only_new: bool,
        stage: float | None,
    ) -> tuple[Published, Future[TaskStatus]]:
        async with self._handed_over(upload) as taken:

            def adopt(patience: Patience) -> tuple[Published, Future[TaskStatus]]:
                with taken() as incoming:
                    published = self._store.adopt(
                        incoming,
                        self._backbone,
                        expect_task=task,
                        if_match=if_match,
                        only_new=only_new,
                        stage=stage,
                        patience=patience,
                    )
                    tell = witness.routed if published.outcome == "staged" else witness.moved
                    tell(published.digest)
                    # At once, else the watcher may be first and the version is loaded twice.
                    return published, self._registry.sync(task)

            return await self._change(task, adopt, witness)

    @asynccontextmanager
    async def _handed_over(self, upload: Incoming) -> AsyncGenerator[Taken]:
        """A file that work on a thread takes; it is discarded there, or here if it is not taken."""
        has_begun = threading.Event()

        @contextmanager
        def taken() -> Iterator[Incoming]:
            has_begun.set()
            try:
                with upload:  # no other thread closes the file while it is read
                    yield upload
            finally:
                self._taken.discard(upload)

        try:
            yield taken
        finally:
            if not has_begun.is_set():
                self._taken.discard(upload)
                await self._discard(upload)

    async def _roll_back(self, task: str, version: str | None, witness: Witness) -> TaskStatus:
        def roll_back(patience: Patience) -> str:
            to = None if version is None else self._store.resolve(f"{task}@{version}")[1]
            digest = self._store.rollback(task, to, patience=patience)
            witness.moved(digest)
            return digest

        digest, status = await self._applied(task, roll_back, witness)
        require_served(status, digest)
        return status

    async def _applied(
        self, task: str, change: Callable[[Patience], _T], witness: Witness
    ) -> tuple[_T, TaskStatus]:
        def apply(patience: Patience) -> tuple[_T, Future[TaskStatus]]:
            done = change(patience)
            return done, self._registry.sync(task)

        done, loading = await self._change(task, apply, witness)
        return done, await self.settled(task, loading)

    async def _remove(self, task: str, witness: Witness) -> None:
        def remove(patience: Patience) -> None:
            self._store.remove(task, patience=patience)
            witness.moved(None)
            self._registry.forget(task)

        await self._change(task, remove, witness)

    async def _taken_back(self, published: Published, witness: Witness) -> bool:
        """Undo a publish. False when the store does not allow that."""
        task = published.task

        def take_back(patience: Patience) -> Left:
            left = self._store.withdraw(task, published.digest, patience=patience)
            if left != "kept":
                witness.taken_back()
            if left == "nothing":
                self._registry.forget(task)
            return left

        try:
            left = await self._change(task, take_back, witness)
        except (AdapterError, StoreBusy) as error:
            _log.warning("version %s of task %s stays: %s", published.digest[:12], task, error)
            return False
        if left == "older":
            try:
                await self.settled(task, self._registry.sync(task))
            except ServerError as error:  # the refusal is the answer
                _log.warning("task %s is not settled after a refusal: %s", task, error.message)
        return left != "kept"

    async def _change(self, task: str, change: Callable[[Patience], _T], witness: Witness) -> _T:
        """Run a change of the store in its turn, within one patience."""
        patience = Patience(self._wait_seconds)

        def late(done: Future[_T]) -> None:
            _log_late(done)
            witness.ended_late(done.exception())

        try:
            return await self._changers.run(lambda: change(patience), late, patience)
        except StoreBusy as error:
            raise StoreBusy(
                f"{error.message}. A change that began is finished once the store answers: ask GET "
                f"/v1/adapters/{task}.",
                reason=error.reason,
                retry_after=error.retry_after,
            ) from error

    async def _discard(self, incoming: Incoming) -> None:
        """Remove a file; where that fails, the next start's sweep does it."""
        if incoming.abandon():
            return
        try:
            await self._discarders.run(incoming.discard, _log_late)
        except StoreBusy as error:
            _log.warning("%s is left in the store: %s", incoming.path.name, error)

    async def _finished(self, work: Coroutine[object, object, _T]) -> _T:
        """Wait for work that comes to its end even if the waiting is cancelled."""
        running = asyncio.ensure_future(work)
        self._running.add(running)
        running.add_done_callback(self._forget_running)
        return await asyncio.shield(running)

    def _forget_running(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen: its request may have ended


def _threads(name: str, most: int, seconds: float) -> StoreThreads:
    return StoreThreads(most, seconds, error=StoreBusy, name=name)


def _discard_made(made: Made) -> None:
    made.incoming.discard()


def _log_late(done: Future[_T]) -> None:
    """What came of work whose request is gone or was answered already."""
    error = done.exception()
    if error is not None:
        _log.warning("work on the store failed after its request had ended: %s", error)
    else:
        _log.info("work on the store ended after its request: %s", done.result())
