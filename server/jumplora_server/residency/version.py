"""One version as the residency table knows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jumplora_server.residency.status import State
from jumplora_server.routing import LoadFailure

Reason = Literal["lru", "replaced", "unload"]


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What the store tells of a version: its direct ancestors, oldest first, and its file size."""

    digest: str
    task: str
    ancestors: tuple[str, ...]
    disk_bytes: int
    profile_bytes: int = 0  # of these, what the engine never gets

    @property
    def guessed_bytes(self) -> int:
        """What the engine may need for it, before it was packed once."""
        return max(0, self.disk_bytes - self.profile_bytes)


@dataclass(frozen=True, slots=True)
class Freed:
    """A slot that nothing uses any more, to be removed from the engine."""

    slot: int
    task: str
    reason: Reason


@dataclass(slots=True, eq=False)
class Version:
    """One version and its users. Only Versions changes it."""

    facts: VersionFacts
    nbytes: int  # in the engine; guessed by the file until it was packed once
    size: Literal["guessed", "measured"] = "guessed"
    state: State = State.COLD
    slot: int = -1
    leases: int = 0  # from routing to the last token
    rows: int = 0  # cache rows that compute with it
    holds: int = 0  # loading or resident descendants
    serving: set[str] = field(default_factory=set)  # tasks whose routes name it
    is_proven: bool = False  # it was READY before
    is_yielding: bool = False  # no new rows: others wait for its room
    retired: Reason = "replaced"  # why it drains
    failure: LoadFailure | None = None  # FAILED only
    used: int = 0  # tick of the last lease or row
    since: int = 0  # tick at which it became READY
    nonzeros: int = 0
    density: float = 0.0
    canary_accuracy: float | None = None  # of those it passed; None: none, or not replayed yet

    @property
    def digest(self) -> str:
        """Its name."""
        return self.facts.digest

    @property
    def is_served(self) -> bool:
        """Whether a task's route names it."""
        return bool(self.serving)

    @property
    def is_resident(self) -> bool:
        """Whether normal rows may use it."""
        return self.state in (State.READY, State.DRAINING)

    @property
    def resident_bytes(self) -> int:
        """Bytes that count against the budget."""
        return self.nbytes if self.is_resident or self.state is State.LOADING else 0

    @property
    def is_idle(self) -> bool:
        """Whether it is neither used nor needed."""
        return not (self.leases or self.rows or self.holds)
