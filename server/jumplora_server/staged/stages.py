"""Changes of what is staged and of what versions are called: in the store first, then here."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass

from jumplora_adapters.errors import AdapterError
from jumplora_adapters.errors import VersionConflict as NotStaged
from jumplora_adapters.incoming import Incoming
from jumplora_adapters.store import Store
from jumplora_adapters.store_lock import Patience
from jumplora_server.errors import AdapterUnavailable, ServerError
from jumplora_server.metrics.metrics import EndingCause, Metrics
from jumplora_server.publishing import Publishing, Release, Unseen, Witness
from jumplora_server.residency.entries import LoadFailure
from jumplora_server.residency.outcome import require_served, stage_refusal
from jumplora_server.residency.status import TaskStatus

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """How a version is to be staged: its share of the requests, 0 to 1, and after how many seconds
    without a fault it is promoted by itself (None: only by command)."""

    share: float
    promote_after: float | None = None


class Stages:
    """One for a server, used on its event loop. Raises AdapterError and ServerError."""

    def __init__(self, store: Store, publishing: Publishing, metrics: Metrics) -> None:
        self._store = store
        self._publishing = publishing
        self._metrics = metrics

    async def publish(
        self,
        task: str,
        incoming: Incoming,
        wish: Wish,
        if_match: str | None = None,
        witness: Witness = Unseen(),
    ) -> Release:
        """Stage a finished file beside the current version, and wait until it gets its share.

        One that does not load, or whose canaries are worse, is taken back.
        """
        release = await self._publishing.publish(
            task, incoming, if_match, stage=wish.share, witness=witness
        )
        digest = release.published.digest
        refusal = await self._refused(task, digest, release.status)
        if refusal is not None:
            await self._discard(task, digest)
            witness.taken_back()
            raise refusal
        return release

    async def stage(
        self, task: str, version: str, wish: Wish, witness: Witness = Unseen()
    ) -> TaskStatus:
        """Give a stored version a share of the task's requests, or another one than it has."""

        def stage(patience: Patience) -> str:
            digest = self._store.resolve(f"{task}@{version}")[1]
            self._store.stage(
                task, digest, wish.share, promote_after=wish.promote_after, patience=patience
            )
            witness.routed(digest)
            return digest

        digest, status = await self._publishing.change(task, stage, witness)
        refusal = await self._refused(task, digest, status)
        if refusal is not None:
            witness.taken_back()
            raise refusal
        return status

    async def promote(
        self,
        task: str,
        version: str | None = None,
        witness: Witness = Unseen(),
        *,
        cause: EndingCause = "operator",
    ) -> TaskStatus:
        """Make the staged version current; `version` must mean that one, where it is given."""

        def promote(patience: Patience) -> str:
            digest = self._store.promote(task, self._store.meant(task, version), patience=patience)
            witness.moved(digest)
            return digest

        digest, status = await self._publishing.change(task, promote, witness)
        self._metrics.stage_ended(task, "promoted", cause)
        require_served(status, digest)
        return status

    async def unstage(
        self,
        task: str,
        version: str | None = None,
        *,
        note: str = "",
        cause: EndingCause = "operator",
        witness: Witness = Unseen(),
    ) -> TaskStatus:
        """Give the staged version no requests any more; it stays in the store."""

        def unstage(patience: Patience) -> str:
            meant = self._store.meant(task, version)
            digest = self._store.unstage(task, meant, note=note, patience=patience)
            witness.routed(digest)
            return digest

        digest, status = await self._publishing.change(task, unstage, witness)
        self._metrics.stage_ended(task, "aborted", cause)
        _log.warning("task %s: version %s was taken back: %s", task, digest[:12], note or cause)
        return status

    async def alias(
        self, task: str, name: str, version: str | None, witness: Witness = Unseen()
    ) -> TaskStatus:
        """Let `name` mean a version of the task, or (None) nothing any more."""

        def alias(patience: Patience) -> None:
            digest = self._store.meant(task, version)
            self._store.alias(task, name, digest, patience=patience)
            witness.routed(digest)

        return (await self._publishing.change(task, alias, witness))[1]

    async def _refused(self, task: str, digest: str, status: TaskStatus) -> ServerError | None:
        """The error of a version that gets no share, which is taken back where trying again does
        not help."""
        staged = status.staged
        if staged is None or staged.version != digest or staged.is_open:
            return None
        if staged.failure is None:
            return AdapterUnavailable(
                f"version {digest} of task {task!r} is staged and still being loaded: ask GET "
                f"/v1/adapters/{task}",
                reason="loading",
                retry_after=5.0,
            )
        if is_lasting(staged.failure):
            cause = cause_of(staged.failure)
            with suppress(NotStaged):  # the referee was faster
                note = staged.failure.narrow or staged.failure.message  # any key may read it
                await self.unstage(task, digest, note=note, cause=cause)
        return stage_refusal(digest, staged.failure)

    async def _discard(self, task: str, digest: str) -> None:
        """Remove the file of a version that never was current, if nothing holds it."""

        def discard(patience: Patience) -> None:
            if all(entry.digest != digest for entry in self._store.history(task)):
                self._store.remove_version(task, digest, patience=patience)

        try:
            await self._publishing.change(task, discard)
        except (AdapterError, ServerError) as error:
            _log.warning("version %s of task %s stays stored: %s", digest[:12], task, error)


# What a later try may mend by itself, without another file.
_PASSING = frozenset({"draining", "store", "internal", "out_of_memory", "loading"})


def is_lasting(failure: LoadFailure) -> bool:
    """Whether a staged version that failed so is taken back at once."""
    return failure.code not in _PASSING


def cause_of(failure: LoadFailure) -> EndingCause:
    """What a version that failed so was taken back for."""
    return "canary" if failure.code == "canary" else "load"
