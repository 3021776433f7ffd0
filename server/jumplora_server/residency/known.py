"""Values that the table takes and gives about versions, and what is wrong with one."""

from __future__ import annotations

from dataclasses import dataclass, field

from jumplora_adapters.manifest import Manifest
from jumplora_server.core import AdapterRef
from jumplora_server.errors import AdapterUnavailable
from jumplora_server.residency.version import VersionFacts
from jumplora_server.routing import LoadFailure


@dataclass(frozen=True, slots=True)
class Known:
    """A version as the store describes it."""

    facts: VersionFacts
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Leased:
    """What a lease is on."""

    ref: AdapterRef
    manifest: Manifest


@dataclass(slots=True)
class Orders:
    """What the loader has to do for a change that was made."""

    fetch: list[str] = field(default_factory=list)  # versions that are waited for
    settle: list[str] = field(default_factory=list)  # tasks to try again now
    is_freed: bool = False  # something is to be tidied away
    is_room_made: bool = False  # loads that wait for room may be tried


def other_task(facts: VersionFacts, task: str) -> LoadFailure:
    """What is wrong with a version in the folder of a task that its manifest does not name."""
    return LoadFailure(
        "manifest",
        f"the manifest of version {facts.digest[:12]} names task {facts.task!r}, not"
        f" {task!r}: publish a file that was made for {task!r}",
    )


def check_task(facts: VersionFacts, task: str) -> None:
    if facts.task != task:
        raise unavailable(task, facts.digest, other_task(facts, task))


def unavailable(
    task: str, digest: str, failure: LoadFailure, retry_after: float | None = None
) -> AdapterUnavailable:
    return AdapterUnavailable(
        f"version {digest[:12]} of task {task!r} could not be loaded: {failure.message}",
        reason=failure.code,
        retry_after=retry_after,
    )
