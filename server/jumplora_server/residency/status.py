"""What the operator sees of a task: a value, made by residency, read by the API and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from jumplora_adapters.manifest import Manifest
from jumplora_server.routing import LoadFailure

PinState = Literal["pinned", "unpinned"]


class State(StrEnum):
    """Where a version is. Only LOADING, READY and DRAINING ones hold bytes."""

    COLD = "COLD"
    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """One registered task.

    `version` answers requests (None: none was loaded yet, or none loads), `desired` is the store's
    pointer, `state` that of `version`. `failure` is why `desired` is not what answers. `in_flight`
    counts leases. Bytes are those of all resident versions of the task, `bytes_disk` those of the
    served version's file. `nonzeros` and `density` are 0 until it was loaded once;
    `canary_accuracy` is None until its canaries were replayed here, and where it has none.
    `history` lists the stored versions in the order in which they last became current.
    """

    task_id: str
    version: str | None
    desired: str
    state: State
    degraded: bool
    failure: LoadFailure | None
    pinned: bool
    in_flight: int
    bytes_disk: int
    bytes_host: int
    bytes_device: int
    nonzeros: int
    density: float
    canary_accuracy: float | None
    manifest: Manifest | None
    history: tuple[str, ...]
