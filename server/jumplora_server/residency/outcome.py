"""What a publish or a rollback came to, by the task's status after it."""

from __future__ import annotations

from collections.abc import Mapping

from jumplora_adapters.store import Published
from jumplora_server.errors import (
    AdapterRefused,
    AdapterUnavailable,
    OutOfMemoryBudget,
    ServerError,
)
from jumplora_server.residency.entries import LoadFailure, State
from jumplora_server.residency.status import TaskStatus

# Failures of a load that are the file's fault on any server: how an upload is refused for them.
_FAULTS_OF_A_FILE: Mapping[str, type[ServerError]] = {
    "nonfinite": AdapterRefused,
    "canary": AdapterRefused,
    "memory_budget": OutOfMemoryBudget,
}


def require_served(status: TaskStatus, digest: str | None) -> None:
    """Raise AdapterUnavailable where `digest` is desired and does not serve.

    Nothing to say when a newer publish overtook this one.
    """
    if status.desired != digest or (status.version == digest and status.state is State.READY):
        return
    failure = status.failure or LoadFailure("loading", f"its state is {status.state.value}")
    serving = f"version {status.version} still answers" if status.version else "no version answers"
    raise failure.told(
        f"version {digest} of task {status.task_id!r} is published but could not be loaded: ",
        f"; {serving}",
    )


def refusal_of(status: TaskStatus, published: Published) -> ServerError | None:
    """What to answer when a new file was found to be of no use only by loading it."""
    failure = status.failure
    if published.outcome != "created" or status.desired != published.digest or failure is None:
        return None
    kind = _FAULTS_OF_A_FILE.get(failure.code)
    if kind is None:
        return None
    before = f"version {published.digest} does not load: "
    return failure.told(before, "; it was taken back", kind=kind)


def stage_refusal(digest: str, failure: LoadFailure) -> ServerError:
    """What to answer when a version cannot be staged, as its load showed."""
    kind = _FAULTS_OF_A_FILE.get(failure.code, AdapterUnavailable)
    return failure.told(f"version {digest} gets no requests: ", kind=kind)
