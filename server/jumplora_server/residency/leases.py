"""Who uses which version: from routing to the last token, and row by row."""

from __future__ import annotations

from jumplora_server.core import AdapterRef
from jumplora_server.errors import AdapterUnavailable
from jumplora_server.residency.shelf import Known, Shelf, ref_of
from jumplora_server.residency.status import State
from jumplora_server.residency.version import Version
from jumplora_server.routing import Lease
from jumplora_server.scheduler.claims import Priority


class Leases:
    """Counts. Thread-safe; implements the scheduler's SlotClaims."""

    def __init__(self, shelf: Shelf, retry_seconds: float) -> None:
        """A version that failed is tried again on request after `retry_seconds`."""
        self._shelf = shelf
        self._retry_seconds = retry_seconds

    def acquire(self, spec: str, known: Known | None = None) -> Lease | str:
        """Look up and count in one step.

        Returns a digest instead where that version must be given as `known` first. Raises
        UnknownTask, UnknownVersion, AdapterUnavailable.
        """
        with self._shelf.lock:
            _, digest = self._shelf.table.version(spec)
            failed = self._shelf.slots.versions.get(digest)
            if failed is not None and failed.state is State.FAILED:
                if self._shelf.clock() < failed.failed_at + self._retry_seconds:
                    raise _unavailable(failed)
                self._shelf.slots.retry(digest)
            if digest not in self._shelf.slots.versions:
                if known is None or known.facts.digest != digest:
                    return digest
                self._shelf.know(known)
            version = self._shelf.slots.versions[digest]
            self._shelf.slots.lease(digest)
            if version.state is State.COLD:
                self._shelf.jobs.request("fetch", digest)
            return self._lease(version)

    def claim(self, ref: AdapterRef, priority: Priority) -> tuple[int, ...] | None:
        """See SlotClaims.claim. The caller has a lease on `ref`."""
        with self._shelf.lock:
            version = self._shelf.slots.versions[ref.version]
            if version.state is State.FAILED:
                raise _unavailable(version)
            if version.state is State.COLD:
                self._shelf.jobs.request("fetch", ref.version)
            return self._shelf.slots.claim(
                ref.version, "hidden" if priority == "low" else "in_service"
            )

    def unclaim(self, ref: AdapterRef) -> None:
        """See SlotClaims.unclaim."""
        with self._shelf.lock:
            self._shelf.slots.unclaim(ref.version)
            self._shelf.poke(ref.version)

    def hidden_lease(self, digest: str) -> Lease:
        """For the warm-up of a version that is loading; not counted, the loader keeps it."""
        with self._shelf.lock:
            version = self._shelf.slots.versions[digest]
            return Lease(ref_of(version), self._shelf.manifests[digest], _nothing, _nothing)

    def canary_lease(self, digest: str) -> Lease | None:
        """For the canaries that a version owes; None where it owes none.

        As `hidden_lease` while it is loading; counted where it is resident already, as another's
        ancestor: its task may be forgotten meanwhile.
        """
        with self._shelf.lock:
            if not self._shelf.owes_canaries(digest):
                return None
            version = self._shelf.slots.versions[digest]
            if not version.is_resident:
                return Lease(ref_of(version), self._shelf.manifests[digest], _nothing, _nothing)
            self._shelf.slots.lease(digest)
            return self._lease(version)

    def _lease(self, version: Version) -> Lease:
        digest = version.digest
        return Lease(
            ref_of(version),
            self._shelf.manifests[digest],
            lambda: self._count(digest),
            lambda: self._uncount(digest),
        )

    def _count(self, digest: str) -> None:
        with self._shelf.lock:
            self._shelf.slots.lease(digest)

    def _uncount(self, digest: str) -> None:
        with self._shelf.lock:
            self._shelf.slots.unlease(digest)
            self._shelf.poke(digest)


def _unavailable(version: Version) -> AdapterUnavailable:
    assert version.failure is not None
    return AdapterUnavailable(
        f"version {version.digest[:12]} of task {version.facts.task!r} could not be loaded:"
        f" {version.failure.message}",
        reason=version.failure.code,
    )


def _nothing() -> None:
    return None
