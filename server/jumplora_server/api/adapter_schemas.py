"""An adapter as clients see it. Clients import it too, so it needs nothing that serves."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from jumplora_adapters.history import Event
from jumplora_adapters.manifest import Manifest


class Failure(BaseModel):
    """Why the newest version does not answer; `code` is stable."""

    code: str
    message: str
    retry_in: float | None = Field(description="seconds until it is tried again by itself")


class Bytes(BaseModel):
    """Memory by tier."""

    disk: int
    host: int
    device: int


class StagedVersion(BaseModel):
    """The version that is staged beside the one that answers."""

    version: str
    share: float = Field(description="of the task's requests, 0 to 1; 0: only those that name it")
    since: str = Field(description="ISO 8601, UTC")
    promote_after: float | None = Field(
        description="seconds without a fault after which it becomes current by itself"
    )
    is_open: bool = Field(description="it was loaded and tried, and gets its share here")
    state: Literal["COLD", "LOADING", "READY", "DRAINING", "FAILED"]
    failure: Failure | None = Field(description="why it gets none")
    canary_accuracy: float | None


class VersionFigures(BaseModel):
    """What became of the requests that were drawn for a version since the staged one was staged,
    on this server: not of those that name it. One of several texts counts once."""

    requests: int
    failed: int
    p95_seconds: float | None


class Comparison(BaseModel):
    """How the staged version stands beside the current one, on this server."""

    staged: VersionFigures
    current: VersionFigures
    looks: int = Field(description="how often it was compared so far, and no fault was found")
    verdict: Literal["not_open", "too_few_requests", "no_fault"]


class AdapterSummary(BaseModel):
    """One task's adapter."""

    task_id: str
    version: str | None = Field(description="SHA-256 of the file that answers; null: none loads")
    desired: str | None = Field(
        description="the version that was published last; null: the store's pointer is at fault"
    )
    state: Literal["COLD", "LOADING", "READY", "DRAINING", "FAILED"]
    degraded: bool = Field(description="what the store wants does not answer: see failure")
    failure: Failure | None
    pinned: bool
    in_flight: int
    bytes: Bytes
    nonzeros: int
    density: float = Field(
        description="share of its targets' entries that it may change, 0 until it was loaded once; "
        "1 for a low-rank one, as in its manifest"
    )
    # Servers before these had no trunks; the command line reads their answers as well.
    folded_depth: int | None = Field(
        default=0,
        description="how many ancestors are merged into the trunk that the version uses; 0: it "
        "uses none; null: decided when it is loaded",
    )
    trunk_bytes: int = Field(
        default=0,
        description="memory of that trunk, which other versions may use as well; not in bytes",
    )
    staged: StagedVersion | None = None
    aliases: dict[str, str] = Field(default={}, description="versions by name")


class Change(BaseModel):
    """A change of the store: a version that became current, got or lost a share or a name, or
    (`remove`) is gone."""

    version: str
    at: str = Field(description="ISO 8601, UTC")
    event: Event = Field(
        description="publish, repoint and promote move on, rollback goes back; stage, unstage, "
        "alias and unalias change what is asked beside the current version"
    )
    note: str = Field(default="", description="why, or by which name")


class CanaryAnswer(BaseModel):
    """A question that the adapter's maker gave it, and how the served version answered here.

    Each text is cut at 200 characters.
    """

    prompt: str
    expected: str
    got: str | None = Field(description="null: it was not asked here yet")
    is_right: bool | None


class AdapterDetail(AdapterSummary):
    """One task's adapter with its manifest and its versions, oldest first."""

    history: list[str]
    manifest: Manifest | None
    # Servers before these had neither.
    changes: list[Change] = Field(
        default=[],
        description="the last 200, oldest first; as they were read last where the store cannot "
        "be read now",
    )
    canaries: list[CanaryAnswer] = []
    comparison: Comparison | None = None


class AdapterList(BaseModel):
    """All registered tasks."""

    adapters: list[AdapterSummary]


class MadeOf(BaseModel):
    """What the server made the version of."""

    format: Literal["peft"]
    peft_type: str = Field(description="as adapter_config.json has it: LORA, SHIRA, ...")
    warnings: list[str] = Field(description="what the maker of the folder should look at")


class PutResult(AdapterDetail):
    """What an upload came to."""

    outcome: Literal["created", "unchanged", "repointed", "staged"]
    made_from: MadeOf | None = Field(
        default=None, description="null: the file was published as it came"
    )


class Removed(BaseModel):
    """What was removed."""

    task_id: str
    removed: Literal[True] = True
